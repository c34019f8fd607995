package simulator

import (
	"encoding/base32"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// pageInfo is the pagination member of a list.
type pageInfo struct {
	Current     currentPage `json:"currentRequestPagination"`
	HasNext     bool        `json:"hasNextPage"`
	HasPrevious bool        `json:"hasPreviousPage"`
	Start       string      `json:"startCursor,omitempty"`
	End         string      `json:"endCursor,omitempty"`
	Total       int         `json:"total"`
}

type currentPage struct {
	Parameters map[string][]string `json:"parameters"`
	Before     string              `json:"before,omitempty"`
	After      string              `json:"after,omitempty"`
	Offset     int                 `json:"offset,omitempty"`
	Limit      int                 `json:"limit"`
}

// cursor encodes the position of an item. Like Pleo's, it contains characters that
// must reach the server unchanged.
func cursor(position int) string {
	return base32.StdEncoding.EncodeToString([]byte(strconv.Itoa(position))) + "~"
}

var errPaging = errors.New("before and after take a cursor, offset a number from 0, limit one from 1 to 100, and only one of before, after and offset may be given")

func parseCursor(c string) (int, error) {
	encoded, found := strings.CutSuffix(c, "~")
	decoded, err := base32.StdEncoding.DecodeString(encoded)
	position, err2 := strconv.Atoi(string(decoded))
	if !found || err != nil || err2 != nil || position < 0 {
		return 0, errPaging
	}
	return position, nil
}

// page returns the part of a list that the query requests.
func page[T any](items []T, q url.Values) response {
	info, from, to, err := cutPage(len(items), q)
	if err != nil {
		return exception(http.StatusBadRequest, "PARAMETER_VALIDATION_FAILED", err.Error())
	}
	return jsonResponse(http.StatusOK, struct {
		Data       []T      `json:"data"`
		Pagination pageInfo `json:"pagination"`
	}{append([]T{}, items[from:to]...), info})
}

// cutPage returns the range [from, to) of total items that a query requests.
func cutPage(total int, q url.Values) (info pageInfo, from, to int, err error) {
	limit, err := number(q, "limit", 20)
	if err != nil || limit < 1 || limit > 100 {
		return pageInfo{}, 0, 0, errPaging
	}
	from, to, err = bounds(total, limit, q)
	if err != nil {
		return pageInfo{}, 0, 0, err
	}
	info = pageInfo{
		Current: currentPage{
			Parameters: map[string][]string{}, Before: q.Get("before"), After: q.Get("after"), Limit: limit, Offset: from,
		},
		HasNext: to < total, HasPrevious: from > 0, Total: total,
	}
	if from < to {
		info.Start, info.End = cursor(from), cursor(to-1)
	}
	return info, from, to, nil
}

func bounds(total, limit int, q url.Values) (from, to int, err error) {
	given := 0
	for _, name := range []string{"before", "after", "offset"} {
		if q.Has(name) {
			given++
		}
	}
	if given > 1 {
		return 0, 0, errPaging
	}
	switch {
	case q.Has("before"):
		to, err = parseCursor(q.Get("before"))
		to = min(to, total)
		return max(0, to-limit), to, err
	case q.Has("after"):
		from, err = parseCursor(q.Get("after"))
		from++
	default:
		from, err = number(q, "offset", 0)
	}
	if from < 0 {
		return 0, 0, errPaging
	}
	from = min(from, total)
	return from, min(from+limit, total), err
}

func number(q url.Values, name string, def int) (int, error) {
	if !q.Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(q.Get(name))
	if err != nil {
		return 0, errPaging
	}
	return n, nil
}
