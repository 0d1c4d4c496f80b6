package receiver

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"
)

// TestWire: with TLS and without a read gives up after the silence, goes on
// afterwards, and ends when the wire is aborted.
func TestWire(t *testing.T) {
	for _, secure := range []bool{false, true} {
		client, server := connected(t, secure)
		w, err := newWire(client, 50*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for range 2 {
			if n, err := w.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("TLS %v: silence gives %d bytes, %v", secure, n, err)
			}
			if _, err := server.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if n, err := w.Read(buf); err != nil || !bytes.Equal(buf[:n], []byte("hello")) || w.drained() == secure {
				t.Fatalf("TLS %v: %q, %v, drained %v", secure, buf[:n], err, w.drained())
			}
		}
		if !secure { // as much as was asked for: there may be more
			if _, err := server.Write(buf); err != nil {
				t.Fatal(err)
			}
			if n, err := w.Read(buf); n != len(buf) || err != nil || w.drained() {
				t.Errorf("%d bytes, %v, drained %v", n, err, w.drained())
			}
		}
		ended := make(chan error)
		go func() {
			var err error
			for err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				_, err = w.Read(buf)
			}
			ended <- err
		}()
		w.abort()
		t.Log(<-ended)
		if _, err := w.Write(buf); err == nil {
			t.Errorf("TLS %v: a write after the abort", secure)
		}
		if err := w.Close(); err != nil && !secure {
			t.Error(err)
		}
	}
}
