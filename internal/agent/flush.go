package agent

import (
	"context"
	"net/http"
	"sync/atomic"
)

// heldWriter is an answer whose end can be sent in one piece: Connect flushes
// after every message, and each flush is a packet that wakes both sides.
type heldWriter struct {
	http.ResponseWriter
	held atomic.Bool
}

// Flush does nothing once held; the end of the handler flushes.
func (w *heldWriter) Flush() {
	if !w.held.Load() {
		w.ResponseWriter.(http.Flusher).Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *heldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type heldKey struct{}

// holdFlush lets handlers of streams use [lastMessage].
func holdFlush(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &heldWriter{ResponseWriter: rw}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), heldKey{}, w)))
	})
}

// lastMessage says that what is sent next is the last of a stream.
func lastMessage(ctx context.Context) {
	if w, ok := ctx.Value(heldKey{}).(*heldWriter); ok {
		w.held.Store(true)
	}
}
