package credstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/yaml.v3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const planted = "planted-secret"

type exported struct {
	Token   credstore.Secret
	Pointer *credstore.Secret
	List    []credstore.Secret
	Map     map[string]credstore.Secret
	Any     any
}

type unexported struct {
	token   credstore.Secret
	pointer *credstore.Secret
	list    []credstore.Secret
	table   map[string]credstore.Secret
	inner   struct{ token credstore.Secret }
	any     any
}

// holders returns values that hold the planted secret, in every way a value can.
func holders() map[string]any {
	s := credstore.NewSecret(planted)
	e := exported{Token: s, Pointer: &s, List: []credstore.Secret{s}, Map: map[string]credstore.Secret{"k": s}, Any: s}
	u := unexported{token: s, pointer: &s, list: e.List, table: e.Map, any: s}
	u.inner.token = s
	return map[string]any{
		"secret": s, "pointer": &s, "exported": e, "pointer to exported": &e, "unexported": u, "pointer to unexported": &u,
		"slice": []any{s, e, u}, "credential": credstore.Credential{AccessToken: s, RefreshToken: s, APIKey: s, NextKey: s},
		"successor": credstore.Successor{AccessToken: s, RefreshToken: s}, "first": &credstore.NewCredential{APIKey: s},
		"state": credstore.State{Credential: credstore.Credential{AccessToken: s}},
	}
}

func wantHidden(t *testing.T, how, printed string) {
	t.Helper()
	// The value, its bytes in hexadecimal, and its bytes as decimal numbers.
	for _, form := range []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), "112 108 97 110"} {
		if strings.Contains(printed, form) {
			t.Errorf("%s shows the secret: %s", how, printed)
		}
	}
}

func TestSecretIsNotFormatted(t *testing.T) {
	flags := []string{"", "+", "#", "-30", "010", " ", ".5", "#+"}
	for name, holder := range holders() {
		for _, flag := range flags {
			for verb := 'A'; verb <= 'z'; verb++ {
				format := "%" + flag + string(verb)
				wantHidden(t, name+" with "+format, fmt.Sprintf(format, holder))
			}
		}
		wantHidden(t, name+" printed", fmt.Sprint(holder))
		wantHidden(t, name+" in an error", fmt.Errorf("wrapping: %w", errors.New(fmt.Sprint(holder))).Error())
	}
}

func TestSecretIsNotEncoded(t *testing.T) {
	for name, holder := range holders() {
		asJSON, err := json.Marshal(holder)
		if err != nil {
			t.Errorf("%s as JSON: %v", name, err)
		}
		wantHidden(t, name+" as JSON", string(asJSON))
		asYAML, err := yaml.Marshal(holder)
		if err != nil {
			t.Errorf("%s as YAML: %v", name, err)
		}
		wantHidden(t, name+" as YAML", string(asYAML))
	}
}

func TestSecretIsNotLogged(t *testing.T) {
	var out bytes.Buffer
	config := zap.NewDevelopmentEncoderConfig()
	for _, encoder := range []zapcore.Encoder{zapcore.NewJSONEncoder(config), zapcore.NewConsoleEncoder(config)} {
		log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel))
		for name, holder := range holders() {
			log.Debug(name, zap.Any("any", holder), zap.Reflect("reflect", holder))
			log.Sugar().Debugw(name, "any", holder)
			log.Sugar().Debugf("%v %+v", holder, holder)
		}
	}
	standard := slog.New(slog.NewTextHandler(&out, nil))
	for name, holder := range holders() {
		standard.Info(name, "any", holder)
	}
	wantHidden(t, "the log", out.String())
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("the log does not hold the redacted secret: nothing was logged")
	}
}

func TestSecretHoldsItsValue(t *testing.T) {
	var zero credstore.Secret
	s := credstore.NewSecret(planted)
	if s.Reveal() != planted || s.IsZero() || zero.Reveal() != "" || !zero.IsZero() {
		t.Errorf("Reveal = %q and %q, want the value and nothing", s.Reveal(), zero.Reveal())
	}
	for _, test := range []struct {
		a, b credstore.Secret
		want bool
	}{
		{s, credstore.NewSecret(planted), true}, {s, credstore.NewSecret("other"), false},
		{s, zero, false}, {zero, credstore.NewSecret(""), true},
	} {
		if got := test.a.Equal(test.b); got != test.want {
			t.Errorf("Equal(%q, %q) = %v, want %v", test.a.Reveal(), test.b.Reveal(), got, test.want)
		}
		if got := test.a.Hash() == test.b.Hash(); got != test.want {
			t.Errorf("hashes of %q and %q equal = %v, want %v", test.a.Reveal(), test.b.Reveal(), got, test.want)
		}
	}
}
