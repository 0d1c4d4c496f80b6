package hint

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFailure(t *testing.T) {
	began := time.Date(2026, 11, 22, 10, 0, 0, 0, time.FixedZone("CET", 3600))
	var none *Failure
	if none.String() != "" || none.InUTC() != nil {
		t.Error("no failure is one")
	}
	first := none.Again(Errorf("try this", "no luck"), began)
	second := first.Again(errors.New("still none"), began.Add(time.Minute))
	if first.Count != 1 || first.String() != "no luck" || first.Hints[0] != "try this" {
		t.Errorf("changed: %+v", first)
	}
	utc := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	if diff := cmp.Diff(&Failure{Error: "still none", Since: utc, Last: utc.Add(time.Minute), Count: 2}, second.InUTC()); diff != "" {
		t.Error(diff)
	}
}
