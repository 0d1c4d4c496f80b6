package fsx

// OpKind is a kind of operation that changes a file system or makes changes
// durable, for those that watch one: tests, and builds with the tag chaos.
type OpKind string

// The kinds of operations, named for the methods.
const (
	OpCreate   OpKind = "create"
	OpMkdir    OpKind = "mkdir"
	OpRename   OpKind = "rename" // Path is the new name
	OpLink     OpKind = "link"   // Path is the new name
	OpRemove   OpKind = "remove"
	OpWrite    OpKind = "write"
	OpTruncate OpKind = "truncate"
	OpSync     OpKind = "sync"
	OpDatasync OpKind = "datasync"
	OpSyncDir  OpKind = "syncdir"
)

// Op is one operation. Path is absolute; for operations on an open
// file it is the name under which the file was opened.
type Op struct {
	Kind OpKind
	Path string
}
