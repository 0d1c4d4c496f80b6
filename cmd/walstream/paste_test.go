package main

import "testing"

// What a hint says to type holds what this run was told.
func TestHintsArePasteable(t *testing.T) {
	for _, c := range []struct {
		ran  []string // the last word is the argument, if the command has one
		hint string
		want string
	}{
		{[]string{"backup"}, "walstream list", "walstream list"},
		{[]string{"backup", "--archive", "/a b", "-d", "host=db1 password=x", "--label", "l", "--json"}, "see: walstream list",
			"see: walstream list --archive '/a b' --dbname 'host=db1 password=***'"},
		{[]string{"slot", "show", "-c", "w.yml", "--slot", "s"}, "walstream slot create --slot s", "walstream slot create --config w.yml --slot s"},
		{[]string{"receive", "--slot", "s", "--create-slot"}, "lost: walstream slot drop --slot s && walstream receive --create-slot",
			"lost: walstream slot drop --slot s && walstream receive --slot s --create-slot"},
		{[]string{"config", "check", "-c", "w.yml"}, "every key: walstream config example", "every key: walstream config example"},
		{[]string{"restore", "--target-time", "2026-11-22", "--target-exclusive", "--tablespace-map", "/a=/b", "--tablespace-map", "/c=/d e", "-n", "it's"},
			"earliest: walstream restore --target-immediate --backup B DIR",
			`earliest: walstream restore --dry-run --tablespace-map /a=/b --tablespace-map '/c=/d e' --target-immediate --backup B 'it'\''s'`},
		{[]string{"restore", "--target-time", "2026-11-22", "--backup", "B", "d"}, "with another: walstream restore --backup C DIR",
			"with another: walstream restore --target-time 2026-11-22 --backup C d"},
		{[]string{"restore", "--target-name", "p", "--target-timeline", "3", "d"}, "elsewhere: walstream restore d-2",
			"elsewhere: walstream restore --target-name p --target-timeline 3 d-2"},
		{[]string{"restore", "d"}, "take one: walstream backup, or leave DIRECTORY alone", "take one: walstream backup, or leave DIRECTORY alone"},
	} {
		a := newTestApp()
		cmd, rest, err := a.root.Find(c.ran)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.cmd, a.args = cmd, cmd.Flags().Args()
		if got := a.pasteable(c.hint); got != c.want {
			t.Errorf("%v:\n%s\nwant\n%s", c.ran, got, c.want)
		}
	}
	if got := (&app{}).pasteable("walstream list DIR"); got != "walstream list DIR" {
		t.Errorf("nothing ran: %s", got)
	}
}
