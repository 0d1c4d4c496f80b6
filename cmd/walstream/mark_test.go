package main

import (
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
)

func TestParsePoint(t *testing.T) {
	p, err := parsePoint([][]string{{"16/B374D848", "1795340460123456"}}, archive.RestorePoint{Name: "n", Timeline: 3})
	if err != nil || p.LSN.String() != "16/B374D848" || !p.Time.Equal(time.UnixMicro(1795340460123456)) || p.Timeline != 3 {
		t.Errorf("%+v %v", p, err)
	}
	for _, rows := range [][][]string{nil, {{"16/B374D848"}}, {{"x", "1"}}, {{"1/2", "x"}}} {
		if p, err := parsePoint(rows, archive.RestorePoint{}); err == nil {
			t.Errorf("%q gives %+v", rows, p)
		}
	}
}
