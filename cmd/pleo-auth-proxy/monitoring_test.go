package main

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// The files that operators load into their monitoring.
const (
	alertsFile    = "../../charts/pleo-auth-proxy/files/alerts.yaml"
	dashboardFile = "../../deploy/grafana/pleo-auth-proxy.json"
)

// alerts returns the expressions of the alerts by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(readFile(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	expressions := map[string]string{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			expressions[rule.Alert] = rule.Expr
		}
	}
	return expressions
}

// dashboardPanels returns the expressions of the dashboard by the titles of their
// panels.
func dashboardPanels(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(readFile(t, dashboardFile), &file); err != nil {
		t.Fatal(err)
	}
	expressions := map[string]string{}
	for _, panel := range file.Panels {
		for _, target := range panel.Targets {
			expressions[panel.Title] += target.Expr + "\n"
		}
	}
	return expressions
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// scrape returns the metrics of the program after some use.
func scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	p := w.serve()
	if _, err := p.get(client(t), "c000", "/v2/employees"); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(p.admin("/metrics").body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

var (
	selector = regexp.MustCompile(`\b((?:pleo|process|go)_[a-z_]+)(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)=~?"([^"]*)"`)
)

// targetLabels are the labels that Prometheus adds.
var targetLabels = []string{"job", "instance", "namespace", "le"}

// TestAlertsAndDashboardUseExistingMetrics checks the names of metrics and labels: an
// alert on a metric that does not exist never fires, and a panel stays empty.
func TestAlertsAndDashboardUseExistingMetrics(t *testing.T) {
	families := scrape(t)
	named := 0
	for file, expressions := range map[string]map[string]string{alertsFile: alerts(t), dashboardFile: dashboardPanels(t)} {
		for title, expr := range expressions {
			for _, m := range selector.FindAllStringSubmatch(expr, -1) {
				named++
				family := families[m[1]]
				if family == nil {
					family = families[strings.TrimSuffix(m[1], "_bucket")]
				}
				if family == nil {
					t.Errorf("%s: %q uses %s, which the program does not have", file, title, m[1])
					continue
				}
				for _, wanted := range matcher.FindAllStringSubmatch(m[2], -1) {
					if !slices.Contains(targetLabels, wanted[1]) && wanted[2] != "5.." {
						checkLabel(t, title, family, wanted[1], wanted[2])
					}
				}
			}
		}
	}
	if named < 40 {
		t.Errorf("alerts and dashboard name %d metrics, want at least 40: are they still read?", named)
	}
}

// checkLabel makes sure that the metric has the label with each of the values.
// Those of requests come with the requests that have them.
func checkLabel(t *testing.T, title string, family *dto.MetricFamily, label, values string) {
	t.Helper()
	for value := range strings.SplitSeq(values, "|") {
		has := slices.ContainsFunc(family.GetMetric(), func(m *dto.Metric) bool {
			return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName() == label && (l.GetValue() == value || family.GetName() == "pleo_proxy_requests_total")
			})
		})
		if !has {
			t.Errorf("%q uses %s with %s %q, which the program does not have", title, family.GetName(), label, value)
		}
	}
}

// TestEveryMetricIsOnTheDashboard checks that no metric is left out.
func TestEveryMetricIsOnTheDashboard(t *testing.T) {
	shown := strings.Join(slices.Collect(maps.Values(dashboardPanels(t))), "\n")
	for name := range scrape(t) {
		if strings.HasPrefix(name, "pleo_") && !strings.Contains(shown, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
