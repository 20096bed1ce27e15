package cluster

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newRaftLogger makes the logger that raft, its transport and its stores want
// out of ours.
func newRaftLogger(to *slog.Logger) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	logger.RegisterSink(raftLogSink{to})
	return logger
}

// raftLogSink passes messages on, with hclog's levels in slog's terms.
type raftLogSink struct{ to *slog.Logger }

func (s raftLogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	l := slog.LevelDebug
	switch level {
	case hclog.Info:
		l = slog.LevelInfo
	case hclog.Warn:
		l = slog.LevelWarn
	case hclog.Error:
		l = slog.LevelError
	}
	s.to.Log(context.Background(), l, "raft: "+msg, args...)
}
