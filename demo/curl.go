package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// request is what the demo sends through the proxy.
type request struct {
	connection string
	url        string
}

// answer is what came back.
type answer struct {
	line        string // such as HTTP/1.1 200 OK
	status      int
	contentType string
	body        []byte
}

// curl is the path of curl, empty where there is none.
type curl string

func findCurl() curl {
	path, err := exec.LookPath("curl")
	if err != nil {
		return ""
	}
	return curl(path)
}

// line returns the command that sends the request.
func (r request) line() string {
	return fmt.Sprintf("curl -si -H 'Pleo-Connection: %s' '%s'", r.connection, r.url)
}

// send sends the request with curl; where there is none, without.
func (c curl) send(ctx context.Context, r request) (answer, error) {
	if c == "" {
		return sendDirectly(ctx, r)
	}
	cmd := exec.CommandContext(ctx, string(c), "-si", "-H", "Pleo-Connection: "+r.connection, r.url)
	cmd.Env = append(os.Environ(), "no_proxy=*", "NO_PROXY=*") // nothing leaves this machine
	out, err := cmd.Output()
	if err != nil {
		return answer{}, fmt.Errorf("running %s: %w", r.line(), err)
	}
	return parse(out)
}

// parse reads what curl -i prints.
func parse(out []byte) (answer, error) {
	head, body, _ := bytes.Cut(out, []byte("\r\n\r\n"))
	in := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(head, "\r\n\r\n"...))))
	line, err := in.ReadLine()
	if err != nil {
		return answer{}, fmt.Errorf("reading the status line: %w", err)
	}
	header, err := in.ReadMIMEHeader()
	if err != nil {
		return answer{}, fmt.Errorf("reading the head: %w", err)
	}
	_, rest, _ := strings.Cut(line, " ")
	number, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(number)
	if err != nil {
		return answer{}, fmt.Errorf("reading the status line %q: %w", line, err)
	}
	return answer{line: line, status: status, contentType: header.Get("Content-Type"), body: body}, nil
}

func sendDirectly(ctx context.Context, r request) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Pleo-Connection", r.connection)
	res, err := direct().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }() // it is read to the end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return answer{
		line: res.Proto + " " + res.Status, status: res.StatusCode,
		contentType: res.Header.Get("Content-Type"), body: body,
	}, nil
}

// direct returns a client that uses no forward proxy and keeps no connection.
func direct() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}
