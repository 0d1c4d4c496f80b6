//go:build chaos

package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/chaos"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// minRows is how many acknowledged commits a round has at least.
const minRows = 1000

// chaosRound is a primary with a standby, walstream as synchronous standby,
// clients, and what goes wrong with them.
type chaosRound struct {
	*world
	seed     uint64
	rnd      *rand.Rand
	journals string
	disks    [2]*chaos.Disk // of the spool and of the archive, or one for both
	service  *service
	wire     *wire
	second   *wire            // to the standby, if the receiver is told of both
	standby  *testkit.Cluster // nil after its promotion
	clients  *clients
	tally    *tally
	began    time.Time
	ack      string
	events   []string

	archiveMu   sync.Mutex
	archiveMode os.FileMode
}

// tally is what rounds have seen.
type tally struct {
	rounds, acked, lost, holes, manual int
	faults                             map[string]int
}

func (a *tally) add(b *tally) {
	a.rounds, a.acked, a.lost, a.holes, a.manual = a.rounds+b.rounds, a.acked+b.acked, a.lost+b.lost, a.holes+b.holes, a.manual+b.manual
	for name, n := range b.faults {
		a.faults[name] += n
	}
}

func (a *tally) String() string {
	text := fmt.Sprintf("rounds %d, acknowledged rows %d, lost rows %d, holes %d, manual steps %d\n", a.rounds, a.acked, a.lost, a.holes, a.manual)
	for _, name := range slices.Sorted(maps.Keys(a.faults)) {
		text += fmt.Sprintf("%5d  %s\n", a.faults[name], name)
	}
	return text
}

func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestChaos runs rounds of faults at random. CHAOS_ROUNDS says how many,
// CHAOS_SEED with which seed the first one begins, CHAOS_MUTANT which mistake is
// built in; with one the first round that loses something is the last. With
// CHAOS_ACK=archive commits wait for the archive, and at the end of a round
// primary and spool are destroyed at one moment.
func TestChaos(t *testing.T) {
	rounds, seed, mutant := envNumber(t, "CHAOS_ROUNDS", 3), envNumber(t, "CHAOS_SEED", uint64(time.Now().UnixMilli())), os.Getenv("CHAOS_MUTANT")
	overlay, err := chaos.WrongClock(filepath.Join(repository, ".bin/clock")) // always there, so that builds are cached
	if err != nil {
		t.Fatal(err)
	}
	bin, err := testkit.Build(binaryDir, "-tags", "chaos,crashpoint,"+mutant, "-overlay", overlay)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testkit.StartToxiproxy(t)
	total := &tally{faults: map[string]int{}}
	for i := range rounds {
		var r *chaosRound
		ok := t.Run(fmt.Sprint("seed=", seed+i), func(t *testing.T) {
			r = newChaosRound(t, bin, seed+i, proxy)
			defer r.service.halt()
			r.run()
		})
		if r == nil {
			t.Fatal("the round could not begin")
		}
		if !ok && r.tally.lost == 0 && r.tally.holes == 0 {
			r.tally.manual = 1 // somebody would have had to look
		}
		total.add(r.tally)
		fmt.Printf("round %d/%d, seed %d: %d acknowledged, %d lost, %d holes, %d manual steps, %.0f s: %s\n", i+1, rounds, r.seed,
			r.tally.acked, r.tally.lost, r.tally.holes, r.tally.manual, time.Since(r.began).Seconds(), strings.Join(slices.Sorted(maps.Keys(r.tally.faults)), ", "))
		if mutant != "" && r.tally.lost+r.tally.holes > 0 {
			break
		}
	}
	fmt.Printf("seed %d: %s", seed, total)
}

// Each mistake that is built in loses data in one of a few rounds.
func TestChaosCatchesMutants(t *testing.T) {
	for _, mutant := range []string{"mutant_ack_before_fsync", "mutant_no_dirsync", "mutant_walget_absent", "mutant_slot_early"} {
		t.Run(mutant, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestChaos$", "-test.timeout=0")
			cmd.Env = append(os.Environ(), "CHAOS_MUTANT="+mutant, "CHAOS_ROUNDS=20")
			out, err := cmd.CombinedOutput()
			text := string(out)
			if at := strings.LastIndex(text, "rounds "); at >= 0 {
				text = text[at:]
			}
			if err == nil || strings.Contains(text, "lost rows 0, holes 0") || !strings.Contains(text, "lost rows") {
				t.Errorf("not caught: %v\n%s", err, out)
			}
			t.Logf("%s", text)
		})
	}
}

func newChaosRound(t *testing.T, bin string, seed uint64, proxy *testkit.Toxiproxy) *chaosRound {
	t.Helper()
	r := &chaosRound{seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), began: time.Now(),
		tally: &tally{rounds: 1, faults: map[string]int{}}, archiveMode: 0o750}
	dir := testkit.Dir(t)
	r.world = &world{t: t, bin: bin, dir: dir, archive: filepath.Join(dir, "archive"), spool: filepath.Join(dir, "spool")}
	r.journals = filepath.Join(dir, "chaos")
	testkit.Run(t, "mkdir", r.journals)
	t.Cleanup(r.keep)

	var err error
	if r.rnd.IntN(2) == 0 {
		r.disks[0], err = chaos.NewDisk(r.spool, r.archive)
		r.disks[1] = r.disks[0]
	} else if r.disks[0], err = chaos.NewDisk(r.spool); err == nil {
		r.disks[1], err = chaos.NewDisk(r.archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.service = &service{w: r.world, ended: r.settle}
	r.primary = testkit.Start(t, testkit.Config{SegmentSizeMB: 1, TCP: true, Settings: []string{
		"max_wal_size = 12MB", "min_wal_size = 2MB", "checkpoint_timeout = 30s", "wal_sender_timeout = 10s",
		"wal_retrieve_retry_interval = 200ms", "log_checkpoints = off",
	}})
	r.wire = newWire(t, proxy, fmt.Sprint("seed-", seed), r.primary)
	r.dbname = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", r.wire.Port)
	if r.rnd.IntN(2) == 0 {
		r.second = newWire(t, proxy, fmt.Sprint("second-", seed), r.primary)
		r.second.Set(map[string]any{"enabled": false}) // until there is a standby
		r.dbname = fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres", r.wire.Port, r.second.Port)
	}
	r.ack = cmp.Or(os.Getenv("CHAOS_ACK"), "spool")
	r.env = []string{"WALSTREAM_ACK=" + r.ack, fsx.ChaosEnv + "=" + r.journals, chaos.ClockEnv + "=" + filepath.Join(r.journals, "clock"), "WALSTREAM_SPOOL_MAX_SIZE=12MiB"}
	return r
}

// settle tells the disks what a process did that has ended.
func (r *chaosRound) settle() {
	r.archiveMu.Lock()
	defer r.archiveMu.Unlock()
	if r.archiveMode == 0 { // not everybody who runs this is root
		os.Chmod(r.archive, 0o750)
		defer os.Chmod(r.archive, 0)
	}
	records, err := fsx.TakeJournals(r.journals)
	if err == nil {
		err = r.disks[0].Apply(records)
	}
	if err == nil && r.disks[1] != r.disks[0] {
		err = r.disks[1].Apply(records)
	}
	if err != nil {
		r.t.Error(err)
	}
}

func (r *chaosRound) event(format string, args ...any) {
	r.events = append(r.events, fmt.Sprintf("%7.3f  ", time.Since(r.began).Seconds())+fmt.Sprintf(format, args...))
}

// listSpool is for the log.
func (r *chaosRound) listSpool() []string {
	names, _ := filepath.Glob(filepath.Join(r.spool, "*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names
}

// keep leaves what tells of a failed round.
func (r *chaosRound) keep() {
	if !r.t.Failed() {
		return
	}
	if r.tally.acked == 0 && r.clients != nil {
		r.tally.acked = len(r.clients.logged(r.t))
	}
	if r.tally.holes == 0 && strings.Contains(r.service.output(), "already been removed") {
		r.tally.holes = 1 // nobody has that WAL any more
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprint("walstream-chaos-", r.seed))
	os.RemoveAll(dir)
	os.Mkdir(dir, 0o755)
	os.WriteFile(filepath.Join(dir, "events"), []byte(strings.Join(r.events, "\n")+"\n"), 0o644)
	os.WriteFile(filepath.Join(dir, "primary.log"), []byte(r.primary.Log()), 0o644)
	if r.standby != nil {
		os.WriteFile(filepath.Join(dir, "standby.log"), []byte(r.standby.Log()), 0o644)
	}
	exec.Command("cp", "-a", r.dir, filepath.Join(dir, "receiver")).Run()
	r.t.Logf("%s\nkept: %s\nonce more: make chaos CHAOS_SEED=%d CHAOS_ROUNDS=1", strings.Join(r.events, "\n"), dir, r.seed)
}

// begin makes everything healthy.
func (r *chaosRound) begin() {
	r.t.Helper()
	r.service.up()
	r.primary.Psql(r.t, "ALTER SYSTEM SET synchronous_standby_names = 'walstream'")
	r.primary.Psql(r.t, "SELECT pg_reload_conf()")
	r.healthy()
	r.must("backup", "--checkpoint", "fast")
	data := filepath.Join(testkit.Dir(r.t), "data")
	testkit.Run(r.t, filepath.Join(r.primary.Bin, "pg_basebackup"), "-d", r.primary.Conninfo()+" application_name=standby", "-D", data, "-R", "-X", "stream", "-c", "fast", "-N")
	r.standby = testkit.Adopt(r.t, data)
	r.standby.ListenTCP()
	command := recovery.RestoreCommand([]string{"env", "WALSTREAM_ARCHIVE=" + r.archive, "WALSTREAM_SPOOL=" + r.spool, r.bin, "wal-get", "--on-error", "fatal"})
	r.standby.Configure(recovery.Setting{Name: "restore_command", Value: command}.String())
	r.standby.Start()
	if r.second != nil {
		r.second.Set(map[string]any{"upstream": address(r.standby), "enabled": true})
	}
	r.clients = startClients(r.t, r.dir, r.primary, 4)
}

// rows waits until n more commits have been acknowledged.
func (r *chaosRound) rows(n int64) {
	r.t.Helper()
	goal := r.clients.acked.Load() + n
	testkit.Wait(r.t, "acknowledged commits", func() (bool, string) {
		have := r.clients.acked.Load()
		return have >= goal, fmt.Sprintf("%d of %d\n%s", have, goal, r.service.output())
	})
}

// healthy waits until the receiver is the synchronous standby again and has
// everything up to now.
func (r *chaosRound) healthy() {
	r.t.Helper()
	lsn := r.primary.Psql(r.t, "SELECT pg_current_wal_flush_lsn()")
	testkit.Wait(r.t, "walstream to be synchronous at "+lsn, func() (bool, string) {
		state, err := r.primary.Query("SELECT sync_state, flush_lsn >= '" + lsn + "', flush_lsn FROM pg_stat_replication WHERE application_name = 'walstream'")
		return strings.HasPrefix(state, "sync|t|"), fmt.Sprintf("%s %v\n%s", state, err, r.service.output())
	})
}

func (r *chaosRound) run() {
	r.begin()
	for range 3 + r.rnd.IntN(4) {
		r.rows(int64(50 + r.rnd.IntN(200)))
		weather, f := pick(r.rnd, weathers(r.ack)), pick(r.rnd, faults(r.ack))
		r.count(weather.name, f.name)
		r.event("%s; weather: %s", f.name, weather.name)
		weather.do(r)
		r.rows(int64(r.rnd.IntN(100)))
		f.do(r)
		r.clear()
		r.healthy()
		r.event("healthy, %d acknowledged", r.clients.acked.Load())
	}
	if missing := minRows - r.clients.acked.Load(); missing > 0 {
		r.rows(missing)
	}
	r.finish()
}

func (r *chaosRound) count(names ...string) {
	for _, name := range names {
		if name != "" {
			r.tally.faults[name]++
		}
	}
}

// halt ends what runs, whatever happened.
func (s *service) halt() {
	if s.done != nil && s.running() {
		s.signal(syscall.SIGCONT)
		s.stop(syscall.SIGKILL)
	}
}
