// Curl sends the requests of the demo on machines without curl.
//
// It understands those options of curl that demo.sh uses: -s, -i, -f, -X, -H and
// -d.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("curl", flag.ContinueOnError)
	var include, fail bool
	header := http.Header{}
	flags.Bool("s", false, "no progress meter")
	flags.BoolVar(&fail, "sf", false, "fail on error status codes")
	flags.BoolVar(&include, "si", false, "print status line and header")
	method := flags.String("X", http.MethodGet, "method")
	body := flags.String("d", "", "body")
	flags.Func("H", "header field", func(field string) error {
		name, value, _ := strings.Cut(field, ":")
		header.Add(name, strings.TrimSpace(value))
		return nil
	})
	var url string
	for len(args) > 0 { // options may follow the URL
		if err := flags.Parse(args); err != nil {
			return err
		}
		if args = flags.Args(); len(args) > 0 {
			url, args = args[0], args[1:]
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), *method, url, strings.NewReader(*body))
	if err != nil {
		return err
	}
	req.Header = header
	res, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read to its end
	if fail && res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the response is %s", res.Status)
	}
	if include {
		fmt.Fprintf(out, "%s %s\r\n", res.Proto, res.Status)
		_ = res.Header.Write(out) // a failure shows in the next write
		fmt.Fprint(out, "\r\n")
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		return fmt.Errorf("reading the response: %w", err)
	}
	return nil
}
