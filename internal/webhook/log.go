package webhook

import (
	"context"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// logSender writes events to the log: those of all processes, each once.
type logSender struct{ log *zap.Logger }

func (l logSender) send(_ context.Context, d credstore.Delivery) error {
	e := d.Event
	level := zapcore.InfoLevel
	if e.Type == credstore.EventReauthorizationRequired || e.Type == credstore.EventKeyExpiring {
		level = zapcore.WarnLevel
	}
	fields := []zap.Field{
		zap.String("event", string(e.Type)),
		zap.String("connection", e.Connection), zap.String("status", string(e.Status)), zap.String("actor", e.Actor),
		zap.Time("at", e.At.UTC()), zap.String("id", e.ID),
	}
	for _, f := range []struct{ name, value string }{{"reason", e.Reason}, {"code", e.Code}, {"message", e.Message}} {
		if f.value != "" {
			fields = append(fields, zap.String(f.name, f.value))
		}
	}
	l.log.Log(level, "connection event", fields...)
	return nil
}
