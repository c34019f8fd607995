package upstream

import "bytes"

// scanHead looks for the end of a response head in p, and checks in the lines
// before it what [net/http.ReadResponse] lets pass and RFC 9112 tells a proxy not
// to. Another server or client might read such a response in another way, and
// take a part of its body for a response of its own.
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

// framing is what the head of a response says about the end of its body.
type framing struct {
	http10, length, coding bool
}

// add takes a header line into account.
func (f *framing) add(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		return nil // continues the line before it
	}
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok || bytes.ContainsAny(name, " \t") {
		return errMalformed // section 5.1
	}
	f.length = f.length || bytes.EqualFold(name, []byte("Content-Length"))
	f.coding = f.coding || bytes.EqualFold(name, []byte("Transfer-Encoding"))
	return nil
}

// check reports framing that is in doubt (section 6.1).
func (f *framing) check() error {
	if f.coding && (f.length || f.http10) {
		return errFraming
	}
	return nil
}
