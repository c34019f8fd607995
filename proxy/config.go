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

// Credentials provides what requests are authorized with. Its methods are called
// concurrently, Authorize for every request: it should return from memory.
type Credentials interface {
	// Authorize returns the current authorization of the connection called
	// name. It may wait, within ctx, for a better one. Its error is a
	// *[refresh.Error] or that of ctx.
	Authorize(ctx context.Context, name string) (*refresh.Authorization, error)

	// Reauthorize is called after a 401. It returns a newer authorization than
	// the rejected one. Its error is [refresh.ErrSuppressed] if the 401 is to be
	// passed on, a *[refresh.Error], or that of ctx.
	Reauthorize(ctx context.Context, rejected *refresh.Authorization) (*refresh.Authorization, error)

	// ReplayRejected reports that the response to a replay with a, which
	// Reauthorize returned, was a 401 too: the credential is not the reason.
	ReplayRejected(a *refresh.Authorization)

	// Uninstalled reports that a request sent with a has uninstalled the
	// integration at the company. The response waits for it. ctx does not end
	// when the client disconnects.
	Uninstalled(ctx context.Context, a *refresh.Authorization)
}

// Config is the configuration of a [Proxy]. Upstream, Credentials and
// ConnectionHeaders are required; the zero value of everything else is usable.
// There are no other defaults here: 0 means 0.
type Config struct {
	// Upstream sends requests to the API. The path of its URL precedes that of
	// every request.
	Upstream *upstream.Client

	Credentials Credentials

	// ConnectionHeaders are the header fields that may name the connection, the
	// preferred one first.
	ConnectionHeaders []string

	// DefaultConnection is the connection of requests that do not name one.
	// Empty means that such requests are rejected.
	DefaultConnection string

	// DefaultConnectionShared uses DefaultConnection even if there are other
	// connections.
	DefaultConnectionShared bool

	// SingleConnection reports whether the store has at most one connection. It
	// is called for each request that would use DefaultConnection, so it should
	// return from memory. Required if DefaultConnection is set and not shared.
	SingleConnection func(context.Context) (bool, error)

	// ConnectLink returns the URL at which a person can fix the connection with
	// this id, whose credential has this version. It is called for each request
	// that only a person can help, and shown in the response. Nil means that
	// none is shown, as is right if clients are neither authenticated nor local.
	ConnectLink func(ctx context.Context, connectionID string, version int64) (string, error)

	// AllowedHosts are further names, without port, that are accepted in Host:
	// those that no public website can have are accepted anyway.
	AllowedHosts []string

	// Clients are the programs that may use the proxy. Nil means all.
	Clients []Client

	// ClientNetworks are the networks from which clients may connect, besides
	// unix sockets. Nil means all. It applies in addition to Clients.
	ClientNetworks []netip.Prefix

	// Replay limits the buffers of request bodies. Its zero value buffers none,
	// so that only requests without a body are replayed.
	Replay ReplayConfig

	// Logger gets messages for operators. Nil discards them.
	Logger *zap.Logger

	// AccessLog gets one entry per request. Nil discards them.
	AccessLog *zap.Logger

	// Registerer registers the metrics. Nil registers none.
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

// Proxy is the handler of the proxy listener; see [New]. It must get every
// request as it was received, so nothing that cleans paths, such as an
// http.ServeMux, may precede it. [NewServer] returns a suitable server.
type Proxy struct {
	credentials     Credentials
	upstream        *upstream.Client
	api             apiURL
	connectionNames connectionNames
	access          clientAccess
	allowedHosts    webguard.Hosts
	strippedFields  map[string]bool // normalized names of fields that are not forwarded, besides alwaysStripped
	replayBuffers   *replayBuffers
	logger          *zap.Logger
	accessLog       *zap.Logger
	metrics         *metrics
	copyBuffers     sync.Pool                                                                     // of *[]byte
	connectLink     func(ctx context.Context, connectionID string, version int64) (string, error) // nil: no links are shown
}

// New returns a Proxy. Its error has everything that is wrong with c.
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

// checkRequired returns an error if something is missing that is not a setting.
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
