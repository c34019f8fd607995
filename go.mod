module github.com/pleo-auth-proxy/pleo-auth-proxy

go 1.26.0
