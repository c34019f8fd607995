package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// Credentials hands out what requests are authorized with. Its methods are
// called by many goroutines at once, and Authorize on every request: it should
// answer from memory.
type Credentials interface {
	// Authorize returns the current authorization of the connection called
	// name. It waits, within ctx, where that gives a better answer. Its error is
	// a *[refresh.Error], or that of ctx.
	Authorize(ctx context.Context, name string) (*refresh.Authorization, error)

	// Reauthorize is called after a 401 and returns a newer authorization than
	// the rejected one. Its error is [refresh.ErrSuppressed] when the 401 should
	// go back as it is, a *[refresh.Error], or that of ctx.
	Reauthorize(ctx context.Context, rejected *refresh.Authorization) (*refresh.Authorization, error)

	// ReplayRejected says that a replay with a, which Reauthorize returned, was
	// answered 401 too: the credential is not the reason.
	ReplayRejected(a *refresh.Authorization)

	// Uninstalled says that a request sent with a has uninstalled the
	// integration at the company. It should not take long: the client waits. ctx
	// does not end when the client leaves.
	Uninstalled(ctx context.Context, a *refresh.Authorization)
}

// Config is what a [Proxy] is made of. Upstream and Credentials are required;
// the zero value of everything else is usable.
type Config struct {
	// Upstream sends requests to the API. The path of its URL comes before that
	// of every request.
	Upstream *upstream.Client

	Credentials Credentials

	// ConnectionHeaders are the header fields that may name the connection, at
	// least one. Error messages suggest the first.
	ConnectionHeaders []string

	// DefaultConnection is meant by requests that name none. Empty: such
	// requests are refused.
	DefaultConnection string

	// DefaultConnectionShared keeps DefaultConnection in use when there are
	// other connections too.
	DefaultConnectionShared bool

	// SingleConnection reports whether the store holds at most one connection. It is asked
	// for each request that would use DefaultConnection, so it should answer
	// from memory. Required if DefaultConnection is set and not shared.
	SingleConnection func(context.Context) (bool, error)

	// ConnectLink returns the address at which a person can mend the connection
	// with the id, whose credential has the version. It is asked for each request
	// that cannot be authorized for want of a person, and shown in the answer, so
	// it should answer from memory. Nil: nothing is shown, as befits a proxy whose
	// clients are neither known nor of this machine.
	ConnectLink func(ctx context.Context, connectionID string, version int64) (string, error)

	// AllowedHosts are names, without port, that requests may have in Host
	// besides those no public web page can be served from.
	AllowedHosts []string

	// Clients are the programs that may use the proxy. Nil: whoever reaches it
	// may, if ClientNetworks does not say otherwise.
	Clients []Client

	// ClientNetworks are where clients may connect from, besides unix sockets.
	// Nil means everywhere. With Clients, both have to agree.
	ClientNetworks []netip.Prefix

	// Replay limits the buffers of request bodies. Its zero value buffers none,
	// so that only requests without a body are replayed.
	Replay ReplayConfig

	// Logger gets what an operator should know. Nil means that nobody does.
	Logger *zap.Logger

	// AccessLog gets one entry per request. Nil means none.
	AccessLog *zap.Logger

	// Registerer gets the metrics. Nil: they are counted and not shown.
	Registerer prometheus.Registerer
}

// ReplayConfig limits what is buffered of request bodies to send them again
// after a 401. A request whose body does not fit is sent once, and a 401 to it
// is passed on.
type ReplayConfig struct {
	// Memory is the number of bytes of one body that are buffered in memory.
	Memory int64

	// MemoryTotal is the number of bytes that all requests together may buffer
	// in memory.
	MemoryTotal int64

	// MaxBody is the size of the largest body that is buffered, in bytes. What
	// exceeds Memory is written to a file. 0 means that no files are used.
	MaxBody int64

	// FilesTotal is the number of bytes that the files of all requests together
	// may have.
	FilesTotal int64

	// Dir is the directory of the files, which are unlinked as soon as they are
	// open. Empty means the system's directory for temporary files. If a file
	// cannot be created there, larger bodies are not buffered.
	Dir string
}

// Proxy is the handler of the proxy listener. Use [New] to make one, and
// [NewServer] to serve it: it has to see every request as it came, so nothing
// that cleans paths, such as [http.ServeMux], may stand in front of it.
type Proxy struct {
	credentials     Credentials
	upstream        *upstream.Client
	api             apiURL
	connectionNames connectionNames
	access          clientAccess
	allowedHosts    webguard.Hosts
	strippedFields  map[string]bool // canonical field name that never leaves, besides alwaysStripped
	replayBuffers   *replayBuffers
	logger          *zap.Logger
	accessLog       *zap.Logger
	metrics         *metrics
	copyBuffers     sync.Pool // of *[]byte

	// connectLink is nil where there are no links to show.
	connectLink func(ctx context.Context, connectionID string, version int64) (string, error)
}

// New makes a Proxy. Its error reports everything that is wrong with c.
func New(c Config) (*Proxy, error) {
	c = c.withDefaults()
	if err := errors.Join(c.Check(), c.checkRequired()); err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		credentials:     c.Credentials,
		upstream:        c.Upstream,
		api:             newAPIURL(c.Upstream.URL()),
		connectionNames: newConnectionNames(c),
		access:          clientAccess{clients: slices.Clone(c.Clients), networks: c.ClientNetworks},
		allowedHosts:    webguard.PrivateHosts(c.AllowedHosts...),
		strippedFields:  map[string]bool{},
		replayBuffers:   newReplayBuffers(c.Replay, c.Logger),
		logger:          c.Logger,
		accessLog:       c.AccessLog,
		metrics:         m,
		connectLink:     c.ConnectLink,
	}
	for _, name := range p.connectionNames.fields {
		p.strippedFields[normalizedField(name)] = true
	}
	p.copyBuffers.New = func() any { b := make([]byte, copyBufferSize); return &b }
	return p, nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.AccessLog == nil {
		c.AccessLog = zap.NewNop()
	}
	return c
}

// checkRequired returns an error if something is missing that no setting stands
// for.
func (c Config) checkRequired() error {
	var errs []error
	if c.Upstream == nil {
		errs = append(errs, errors.New("upstream is missing"))
	}
	if c.Credentials == nil {
		errs = append(errs, errors.New("credentials are missing"))
	}
	if c.SingleConnection == nil && c.DefaultConnection != "" && !c.DefaultConnectionShared {
		errs = append(errs, errors.New("a default connection that is not shared requires SingleConnection"))
	}
	return errors.Join(errs...)
}

// Check returns everything that is wrong with the settings in c, as [New] does. It
// does not require Upstream, Credentials and SingleConnection.
func (c Config) Check() error {
	errs := []error{checkClients(c.Clients)}
	if c.DefaultConnection != "" && !credstore.ValidName(c.DefaultConnection) {
		errs = append(errs, fmt.Errorf("default connection %q is not a connection name", c.DefaultConnection))
	}
	if len(c.ConnectionHeaders) == 0 {
		errs = append(errs, errors.New("connection headers are missing"))
	}
	for _, name := range c.ConnectionHeaders {
		if err := CheckConnectionHeader(name); err != nil {
			errs = append(errs, fmt.Errorf("checking connection headers: %w", err))
		}
	}
	for _, h := range c.AllowedHosts {
		if err := webguard.CheckHost(h); err != nil {
			errs = append(errs, fmt.Errorf("allowed host %q: %w", h, err))
		}
	}
	if r := c.Replay; min(r.Memory, r.MemoryTotal, r.MaxBody, r.FilesTotal) < 0 {
		errs = append(errs, errors.New("replay limits must not be negative"))
	}
	return errors.Join(errs...)
}
