package simulator_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// A refresh whose response is lost after the commit uses up the refresh token.
func Example() {
	sim, err := simulator.New(simulator.Config{})
	if err != nil {
		panic(err)
	}
	server := httptest.NewServer(sim.Handler())
	defer server.Close()
	grant, err := sim.IssueGrant(simulator.GrantRequest{})
	if err != nil {
		panic(err)
	}
	lost := simulator.Fault{Kind: simulator.FaultDrop, When: simulator.AfterCommit, Count: 1}
	if _, err := sim.SetFault(lost); err != nil {
		panic(err)
	}

	config := oauth2.Config{
		ClientID: grant.ClientID, ClientSecret: simulator.DefaultClientSecret,
		Endpoint: oauth2.Endpoint{TokenURL: server.URL + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
	for range 2 {
		_, err := config.TokenSource(context.Background(), &oauth2.Token{RefreshToken: grant.RefreshToken}).Token()
		fmt.Println("refreshed:", err == nil)
	}
	c := sim.Counters()
	fmt.Println("committed:", c.Refreshes, "rejected:", c.Rejections, "sent:", c.MaxTimesSent)
	fmt.Println(sim.Grants()[0].Reason)
	// Output:
	// refreshed: false
	// refreshed: false
	// committed: 1 rejected: 1 sent: 2
	// a used refresh token was sent again
}
