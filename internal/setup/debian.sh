#!/bin/sh
# Installs what is missing on a Debian or Ubuntu machine:
#   debian.sh postgresql    PostgreSQL's server and client programs
#   debian.sh test          that, and what the tests use besides
#   debian.sh matrix        that, and what fetches the other majors (majors.sh)
#   debian.sh bench         as test, and what walstream is compared with
# It makes no database cluster. Where it may not install, it prints the
# command to run and ends with status 1.
set -eu

have_postgresql() {
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
		{ command -v pg_config >/dev/null 2>&1 && [ -x "$(pg_config --bindir)/initdb" ]; }
}

packages=
have_postgresql || packages="postgresql"
case ${1:-} in
test | matrix | bench)
	for program in zstd age; do
		command -v $program >/dev/null 2>&1 || packages="$packages $program"
	done
	# The race detector is C.
	command -v cc >/dev/null 2>&1 || packages="$packages gcc libc6-dev"
	;;
esac
if [ "${1:-}" = matrix ]; then
	command -v npm >/dev/null 2>&1 || packages="$packages npm"
fi
if [ "${1:-}" = bench ]; then
	command -v pgbackrest >/dev/null 2>&1 || packages="$packages pgbackrest"
fi
[ -n "$packages" ] || exit 0

sudo=
if [ "$(id -u)" -ne 0 ]; then
	sudo="sudo -n"
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "these programs are missing; install them with your system's package manager:$packages" >&2
	exit 1
fi
if [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; then
	echo "missing:$packages. Run this first, then try again:" >&2
	echo "  sudo apt-get install -y --no-install-recommends postgresql-common $packages" >&2
	exit 1
fi

echo "installing with apt-get:$packages" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
case " $packages " in
*" postgresql "*)
	# Debian starts a cluster named main unless it is told not to.
	$sudo mkdir -p /etc/postgresql-common/createcluster.d
	echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.d/walstream.conf >/dev/null
	;;
esac
# shellcheck disable=SC2086 # a list of package names
$sudo apt-get install -q -y --no-install-recommends $packages
