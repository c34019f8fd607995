package upstream

import "bytes"

// scanHead reports whether p contains a whole response head, and checks its lines
// for what [net/http.ReadResponse] accepts although RFC 9112 requires a proxy
// to reject it. Clients may parse such a response differently and take part of its
// body for the next response.
func scanHead(p []byte) (whole bool, err error) {
	var f framing
	for first := true; ; first = false {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			return false, nil
		}
		line := bytes.TrimSuffix(p[:end], []byte("\r"))
		p = p[end+1:]
		switch {
		case bytes.IndexByte(line, 0) >= 0 || bytes.IndexByte(line, '\r') >= 0:
			return false, errMalformed // section 2.2; RFC 9110 section 5.5
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.")):
			return false, errMalformed
		case first:
			f.http10 = bytes.HasPrefix(line, []byte("HTTP/1.0"))
		case len(line) == 0:
			return true, f.check()
		default:
			if err := f.add(line); err != nil {
				return false, err
			}
		}
	}
}

// framing is what a response head says about the end of the body.
type framing struct {
	http10, length, coding bool
}

// add adds a header line.
func (f *framing) add(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		return nil // a continuation of the line before
	}
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok || bytes.ContainsAny(name, " \t") {
		return errMalformed // section 5.1
	}
	f.length = f.length || bytes.EqualFold(name, []byte("Content-Length"))
	f.coding = f.coding || bytes.EqualFold(name, []byte("Transfer-Encoding"))
	return nil
}

// check returns an error if the framing is ambiguous (section 6.1).
func (f *framing) check() error {
	if f.coding && (f.length || f.http10) {
		return errFraming
	}
	return nil
}
