#!/bin/bash
# The whole path on a throwaway cluster in a temporary directory: stream as
# synchronous standby, base backup, an accident and the way back, a disaster
# and the way back. `KEEP=1 make demo` keeps what it made.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)

# PostgreSQL refuses to run as root, so everything runs as an ordinary user,
# in a directory of its own, from a copy of the binary that this user can read.
if [ -z "${DEMO_DIR:-}" ]; then
	DEMO_DIR=$(mktemp -d "${TMPDIR:-/tmp}/demo.XXXX")
	export DEMO_DIR
	cp "$here/bin/walstream" "$0" "$DEMO_DIR/"
	if [ "$(id -u)" -eq 0 ]; then
		user=postgres
		getent passwd $user >/dev/null || user=nobody
		chown -R "$user" "$DEMO_DIR"
		cd "$DEMO_DIR"
		exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups bash "$DEMO_DIR/demo.sh"
	fi
	exec bash "$DEMO_DIR/demo.sh"
fi

cd "$DEMO_DIR"
export HOME=$DEMO_DIR PATH="$DEMO_DIR:$PATH" LC_ALL=C PGHOST=$DEMO_DIR PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
unset PGPASSFILE PGSERVICE "${!WALSTREAM_@}"
bindir=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$bindir" ] || bindir=$(pg_config --bindir)
PATH="$bindir:$PATH"

receiver=
writers=()
servers=()

cleanup() {
	status=$?
	trap - EXIT
	for pid in "${writers[@]}" $receiver; do kill "$pid" 2>/dev/null || true; done
	for data in "${servers[@]}"; do
		[ ! -f "$data/postmaster.pid" ] || pg_ctl -D "$data" -m immediate -s stop 2>/dev/null || true
	done
	wait 2>/dev/null || true
	if [ "$status" -ne 0 ]; then
		for log in receive.log postgres.log restored.log; do
			[ ! -s $log ] || { echo "--- the end of $log"; tail -20 $log; } >&2
		done
		echo "the demo FAILED" >&2
	fi
	if [ -n "${KEEP:-}" ]; then
		echo "kept: $DEMO_DIR"
	else
		rm -rf "$DEMO_DIR"
	fi
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n%s\n' "$*"; }
show() { # show COMMAND...: as the reader would type it
	local word line='$'
	for word in "$@"; do
		case $word in
		*[!A-Za-z0-9_%+,./:=@-]*) word="'$word'" ;;
		esac
		line+=" $word"
	done
	echo "  $line"
}
run() { # run COMMAND...: shows it and what it prints
	show "$@"
	"$@" 2>&1 | fold -s -w 96 | sed 's/^/    /'
}
sql() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
must() { # must WHAT GOT WANT
	if [ "$2" != "$3" ]; then
		echo "  $1: $2, expected $3" >&2
		exit 1
	fi
	echo "  $1: $2"
}
await() { # await SECONDS WHAT COMMAND...
	local left=$(($1 * 10)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ $left -gt 0 ] || { echo "  waited in vain for $what" >&2; exit 1; }
		sleep 0.1
	done
}
start_server() { # start_server DATADIR LOG
	servers+=("$1")
	pg_ctl -D "$1" -l "$2" -w -t 60 -s start
}
is_sync() { [ "$(sql "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'walstream'")" = sync ]; }
alone() { [ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql'")" = 1 ]; }
promoted() { [ "$(sql "SELECT pg_is_in_recovery()")" = f ]; }
settled() { promoted || [ "$(sql "SELECT pg_get_wal_replay_pause_state()" 2>/dev/null || sql "SELECT CASE WHEN pg_is_wal_replay_paused() THEN 'paused' END")" = paused ]; }

step "1. A throwaway PostgreSQL $("$bindir/postgres" --version | grep -o '[0-9.]*' | head -1) in $DEMO_DIR"
initdb -D primary -U postgres -A trust --no-sync --no-instructions >initdb.log
cat >>primary/postgresql.conf <<-CONF
	listen_addresses = ''
	unix_socket_directories = '$DEMO_DIR'
CONF
start_server "$DEMO_DIR/primary" postgres.log
sql "CREATE TABLE orders (id bigint PRIMARY KEY, item text, ordered timestamptz DEFAULT now())"
sql "INSERT INTO orders SELECT i, 'item ' || i FROM generate_series(-5000, -1) i"

step "2. walstream streams its WAL, as synchronous standby"
export WALSTREAM_ARCHIVE=$DEMO_DIR/archive WALSTREAM_SPOOL=$DEMO_DIR/spool
export WALSTREAM_DBNAME="host=$DEMO_DIR user=postgres"
export WALSTREAM_HTTP_LISTEN=off # its port may be taken
for name in DBNAME ARCHIVE SPOOL; do
	name=WALSTREAM_$name
	show export "$name=${!name}" | sed "s/'$name=/$name='/"
done
show walstream receive --create-slot '&' | sed "s/'&'/\&/"
walstream receive --create-slot >receive.out 2>receive.log &
receiver=$!
sql "ALTER SYSTEM SET synchronous_standby_names = 'walstream'"
sql "SELECT pg_reload_conf()" >/dev/null
await 30 "walstream to be the synchronous standby" is_sync
must "sync_state in pg_stat_replication" "$(sql "SELECT sync_state FROM pg_stat_replication")" sync
run walstream status

step "3. A base backup"
run walstream backup --checkpoint fast --label "before the accident"
run walstream list

# Each writer commits orders one by one. psql prints an order's number only
# after the server has acknowledged its COMMIT, so what is in acked.N was
# acknowledged.
start_writers() {
	for w in 1 2 3 4; do
		seq $(($1 + w)) 4 $(($1 + 400000)) |
			awk '{print "INSERT INTO orders VALUES (" $1 ", '\''item " $1 "'\'') RETURNING id;"}' |
			psql -XAtq >"acked.$1.$w" 2>>writers.log &
		writers+=($!)
	done
}
acked() { cat acked."$1".* | grep -c '^[0-9][0-9]*$' || true; }
enough() { [ "$(acked "$1")" -ge "$2" ]; }

step "4. Orders come in, and then somebody forgets the WHERE"
start_writers 1000000
await 60 "orders" enough 1000000 500
for pid in "${writers[@]}"; do kill "$pid" 2>/dev/null || true; done
wait "${writers[@]}" 2>/dev/null || true
writers=()
await 30 "the last orders to be committed" alone
before=$(sql "SELECT count(*) FROM orders")
moment=$(sql "SELECT clock_timestamp()::timestamptz(3)")
echo "  $before orders at $moment"
run psql -c "DELETE FROM orders"
sql "INSERT INTO orders VALUES (0, 'the first order after the accident')"
sql "SELECT pg_switch_wal()" >/dev/null

step "5. What would a restore to just before it do? (-n writes nothing)"
restore=(walstream restore clone --target-time "$moment" --target-action promote)
await 30 "the WAL of the accident to be archived" "${restore[@]}" --dry-run
run "${restore[@]}" -n

step "6. Restore to just before it"
run "${restore[@]}"
export PGPORT=5433
echo "port = 5433" >>clone/postgresql.conf
run pg_ctl -D clone -l restored.log -w -t 60 -s start
servers+=(clone)
await 60 "recovery to end" promoted
must "orders in the restored cluster" "$(sql "SELECT count(*) FROM orders")" "$before"
pg_ctl -D clone -m fast -s stop
export PGPORT=5432

step "7. The disaster: writers are running, kill -9, and the data directory is gone"
start_writers 2000000
await 60 "1,000 acknowledged commits" enough 2000000 1000
must "sync_state at the kill" "$(sql "SELECT sync_state FROM pg_stat_replication")" sync
postmaster=$(head -1 primary/postmaster.pid)
children=$(cat "/proc/$postmaster/task/$postmaster/children")
# shellcheck disable=SC2086 # a list of process IDs
kill -9 "$postmaster" $children 2>/dev/null || true
rm -rf primary .s.PGSQL.5432*
wait "${writers[@]}" 2>/dev/null || true
writers=()
cat acked.2000000.* | grep '^[0-9][0-9]*$' | sort >acked
echo "  the primary is gone; $(wc -l <acked) commits had been acknowledged to clients"

step "8. Restore to the end, and look up every acknowledged commit"
run walstream restore rescued
run pg_ctl -D rescued -l restored.log -w -t 60 -s start
servers+=(rescued)
await 60 "recovery to end" promoted
sql "SELECT id FROM orders WHERE id >= 2000000" | sort >found
comm -23 acked found >lost
must "acknowledged commits looked up" "$(comm -12 acked found | wc -l)" "$(wc -l <acked)"
must "acknowledged commits lost" "$(wc -l <lost)" 0
run pg_amcheck --all --install-missing
echo "  pg_amcheck found nothing"

kill -TERM "$receiver"
wait "$receiver" || { echo "  walstream receive ended with status $?" >&2; exit 1; }
receiver=

step "In short"
cat <<END
  The accident: $before of $before orders are back, up to the moment before the DELETE.
  The disaster: $(wc -l <acked) commits were acknowledged before kill -9 and rm -rf, $(wc -l <lost) of them are lost.
  On your own server: "Five minutes to a safe server" in README.md.
END
