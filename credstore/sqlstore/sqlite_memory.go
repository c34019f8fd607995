package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/url"
	"sync"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Memory is a database in the memory of this process. It ends with the last store that
// is open on it. It is for credentials that are kept elsewhere. Stores opened on the
// same Memory share its content. Use NewMemory to create one.
type Memory struct {
	name string // no other Memory of this process has it

	mu   sync.Mutex               // guards held
	held map[int64]*memoryDialect // number of a connection → holder of its lock
}

// NewMemory returns an empty database.
func NewMemory() *Memory {
	return &Memory{name: rand.Text(), held: make(map[int64]*memoryDialect)}
}

// memoryDialect is the dialect of SQLite without files.
type memoryDialect struct {
	sqliteDialect
	memory *Memory
}

func openMemory(ctx context.Context, m *Memory) (_ *memoryDialect, err error) {
	d := &memoryDialect{memory: m}
	if d.write, err = d.openPool(url.Values{"_txlock": {"immediate"}}, 1); err != nil {
		return nil, err
	}
	if err = applyMigrations(ctx, d.write, schema()); err == nil {
		d.read, err = d.openPool(url.Values{"_query_only": {"1"}}, maxReaders)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// openPool opens connections to the database, which the first one creates.
func (d *memoryDialect) openPool(options url.Values, size int) (*sql.DB, error) {
	options.Set("vfs", "memdb")
	return openPool("/"+d.memory.name, options, size)
}

func (d *memoryDialect) acquire(ctx context.Context, id, _ string) (leaseHandle, error) {
	return acquireLock(ctx, d.read, id, d.lock)
}

// lock excludes other stores that are open on the same memory.
func (d *memoryDialect) lock(number int64) (unlock func() error, err error) {
	m := d.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[number] != nil {
		return nil, credstore.ErrBusy
	}
	m.held[number] = d
	return func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.held[number] == d {
			delete(m.held, number)
		}
		return nil
	}, nil
}

// close ends the locks last, so that no lease ends before the writes under it.
func (d *memoryDialect) close() error {
	err := d.sqliteDialect.close()
	m := d.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	for number, holder := range m.held {
		if holder == d {
			delete(m.held, number)
		}
	}
	return err
}
