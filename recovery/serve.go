package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// What the answers of a [Server] say besides their body. Without them an answer
// is somebody else's: a proxy's 404 is no [Absent].
const (
	outcomeHeader = "Walstream-Outcome" // delivered, absent or trouble
	clusterHeader = "Walstream-Cluster" // a segment.Identity as JSON
	paddedHeader  = "Walstream-Padded"  // the bytes of a segment before the zeros that fill it up; 0: it is whole
	digestHeader  = "Repr-Digest"       // SHA-256 of the whole file, as in RFC 9530
)

// answerTime is how long a [Server] looks for a file: less than its clients
// wait for a sign.
const answerTime = remoteSilence - 10*time.Second

// Server gives WAL files to hosts that cannot read the archive, by HTTP, with
// the answers of [WalGet]: 200 is [Delivered], 404 [Absent], and anything else
// [Trouble], which the client retries.
type Server struct {
	// Open opens the archive, for each request anew.
	Open func(ctx context.Context) (*archive.Archive, error)
	// Spool names the spool of a receiver on this host, for each request anew:
	// one that is new holds WAL too. Empty means none.
	Spool func() (string, error)
	Log   zerolog.Logger
}

// Register adds the paths of the server to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /wal/{file}", func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, r.PathValue("file")) })
	mux.HandleFunc("GET /history/{timeline}", func(w http.ResponseWriter, r *http.Request) {
		tli, err := wal.ParseTimeline(r.PathValue("timeline"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.serve(w, r, segment.HistoryName(tli))
	})
}

// servedName matches what is asked for: a segment, or a timeline history.
var servedName = regexp.MustCompile(`^[0-9A-F]{8}([0-9A-F]{16}|\.history)$`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request, file string) {
	w.Header().Set("Cache-Control", "no-store") // what is absent now may be there in a moment
	if !servedName.MatchString(file) {
		http.Error(w, fmt.Sprintf("%q: %v", file, errNoWALFile), http.StatusBadRequest)
		return
	}
	dir, err := os.MkdirTemp("", "walstream-serve-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = s.answer(w, r, file, filepath.Join(dir, "answer"))
	}
	if err != nil {
		s.Log.Warn().Err(err).Str("file", file).Str("client", r.RemoteAddr).Msg("cannot serve WAL")
		w.Header().Set(outcomeHeader, "trouble")
		http.Error(w, strings.Join(append([]string{err.Error()}, hint.Of(err)...), "\nhint: "), http.StatusServiceUnavailable)
	}
}

// answer answers, unless it returns an error, which is trouble.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, file, path string) error {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	spool, err := s.Spool()
	if err != nil {
		return err
	}
	g := &walGet{cfg: WalGetConfig{Open: s.Open, Spool: spool, Log: s.Log}, file: file, path: path, wal: filepath.Dir(path), passing: true}
	out, err := g.try(ctx)
	switch {
	case errors.Is(err, errNoWALFile): // of clusters with segments of another size
		http.Error(w, fmt.Sprintf("%q: %v", file, err), http.StatusBadRequest)
		return nil
	case out == Trouble:
		return err
	}
	identity, jerr := json.Marshal(g.archive.Identity().Identity)
	if jerr != nil {
		return jerr
	}
	w.Header().Set(clusterHeader, string(identity))
	if out == Absent {
		w.Header().Set(outcomeHeader, "absent")
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil
	}
	w.Header().Set(paddedHeader, fmt.Sprint(g.padded))
	return send(w, r, path)
}

// send sends the file at path, or the range of it that r asks for.
func send(w http.ResponseWriter, r *http.Request, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	h := w.Header()
	h.Set(outcomeHeader, "delivered")
	h.Set(digestHeader, digest(sum.Sum(nil)))
	h.Set("Etag", fmt.Sprintf(`"%x"`, sum.Sum(nil)))
	h.Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

func digest(sum []byte) string { return "sha-256=:" + base64.StdEncoding.EncodeToString(sum) + ":" }
