package deploy

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// setup is a documented way to install, with the manifest that kubectl would apply.
type setup struct {
	name   string
	chart  string   // below charts/; empty for a plain manifest
	values []string // arguments for helm, or the path of the manifest
	want   []string // kinds of the objects, in the order of their names
}

func setups() []setup {
	gateway := func(name string, want ...string) setup {
		return setup{
			name: name, chart: "pleo-auth-proxy",
			values: []string{"--values", repository("charts", "pleo-auth-proxy", "ci", name+".yaml")}, want: want,
		}
	}
	always := []string{"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
	sidecar := func(name string, want []string, values ...string) setup {
		return setup{name: name, chart: "examples/erp", values: values, want: want}
	}
	return []setup{
		gateway("gateway-keys", always...),
		gateway("gateway-files", append([]string{"PersistentVolumeClaim"}, always...)...),
		gateway("gateway-sqlite", append([]string{"Ingress", "PersistentVolumeClaim"}, always...)...),
		gateway("gateway-postgres", "ConfigMap", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service",
			"ServiceAccount", "ServiceMonitor", "StatefulSet"),
		sidecar("sidecar-keys", []string{"ConfigMap", "Deployment", "NetworkPolicy"}),
		sidecar("sidecar-socket", []string{"ConfigMap", "Deployment", "NetworkPolicy"}, "--set", "pleo-auth-proxy.sidecar.socket=true"),
		sidecar("sidecar-sqlite", []string{"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim"},
			"--values", repository("charts", "examples", "erp", "ci", "sqlite.yaml")),
		{name: "plain-sidecar", values: []string{repository("deploy", "kubernetes", "sidecar.yaml")},
			want: []string{"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim"}},
		{name: "plain-job", values: []string{repository("deploy", "kubernetes", "job.yaml")},
			want: []string{"ConfigMap", "Job", "NetworkPolicy"}},
	}
}

// chartDir returns a copy of a chart with its dependencies in it.
func chartDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "charts")
	output(t, "cp", "--recursive", "--dereference", repository("charts"), dir)
	if name != "pleo-auth-proxy" {
		output(t, tool(t, "helm"), "dependency", "update", filepath.Join(dir, name))
	}
	return filepath.Join(dir, name)
}

// render returns the manifest of a setup.
func (s setup) render(t *testing.T, more ...string) string {
	t.Helper()
	if s.chart == "" {
		return read(t, s.values[0])
	}
	args := append([]string{"template", "pleo", chartDir(t, s.chart), "--namespace", "pleo"}, s.values...)
	return output(t, tool(t, "helm"), append(args, more...)...)
}

func TestChartsLint(t *testing.T) {
	for _, s := range setups() {
		if s.chart == "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			args := append([]string{"lint", "--strict", chartDir(t, s.chart)}, s.values...)
			if out := output(t, tool(t, "helm"), args...); !strings.Contains(out, "0 chart(s) failed") {
				t.Error(out)
			}
		})
	}
}

func TestChartsRender(t *testing.T) {
	for _, s := range setups() {
		if s.chart == "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			golden, got := filepath.Join("testdata", "charts", s.name+".yaml"), s.render(t)
			if *update {
				write(t, golden, got)
			}
			if diff := cmp.Diff(read(t, golden), got); diff != "" {
				t.Errorf("the output differs from %s; if that is intended, run go test -run TestChartsRender . -update (-want +got):\n%s", golden, diff)
			}
		})
	}
}

// object returns an empty object of a kind.
func object(apiVersion, kind string) any {
	switch apiVersion + " " + kind {
	case "v1 ConfigMap":
		return &corev1.ConfigMap{}
	case "v1 PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "v1 Secret":
		return &corev1.Secret{}
	case "v1 Service":
		return &corev1.Service{}
	case "v1 ServiceAccount":
		return &corev1.ServiceAccount{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "batch/v1 Job":
		return &batchv1.Job{}
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{}
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "networking.k8s.io/v1 Ingress":
		return &networkingv1.Ingress{}
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return &monitoringv1.ServiceMonitor{}
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoringv1.PrometheusRule{}
	}
	return nil
}

// decode reads every object of a manifest strictly, so that unknown keys are
// errors, and returns the objects by kind.
func decode(t *testing.T, manifest string) map[string]any {
	t.Helper()
	objects := map[string]any{}
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if head.Kind == "" {
			continue // comments alone
		}
		into := object(head.APIVersion, head.Kind)
		if into == nil {
			t.Errorf("no check for %s %s", head.APIVersion, head.Kind)
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Errorf("%s: %v", head.Kind, err)
		}
		if objects[head.Kind] != nil {
			t.Errorf("there are two objects of kind %s", head.Kind)
		}
		objects[head.Kind] = into
	}
	return objects
}

// podOf returns the pod of a Deployment, a StatefulSet or a Job.
func podOf(t *testing.T, objects map[string]any) corev1.PodSpec {
	t.Helper()
	if d, ok := objects["Deployment"].(*appsv1.Deployment); ok {
		return d.Spec.Template.Spec
	}
	if s, ok := objects["StatefulSet"].(*appsv1.StatefulSet); ok {
		return podOfSet(s)
	}
	if j, ok := objects["Job"].(*batchv1.Job); ok {
		return j.Spec.Template.Spec
	}
	t.Fatal("there is neither a Deployment, a StatefulSet nor a Job")
	return corev1.PodSpec{}
}

// podOfSet returns a pod with a volume for each claim, as the controller creates it.
func podOfSet(s *appsv1.StatefulSet) corev1.PodSpec {
	pod := s.Spec.Template.Spec
	for _, claim := range s.Spec.VolumeClaimTemplates {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name + "-" + s.Name + "-0"},
		}})
	}
	return pod
}

// proxyOf returns the container of the proxy.
func proxyOf(t *testing.T, pod corev1.PodSpec) corev1.Container {
	t.Helper()
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Name == "pleo-auth-proxy" {
			return c
		}
	}
	t.Fatal("no container has the name pleo-auth-proxy")
	return corev1.Container{}
}

// TestObjectsAreWhatKubernetesKnows decodes every object of every setup, and checks the
// fields that each pod must have.
func TestObjectsAreWhatKubernetesKnows(t *testing.T) {
	for _, s := range setups() {
		t.Run(s.name, func(t *testing.T) {
			objects := decode(t, s.render(t))
			slices.Sort(s.want)
			if diff := cmp.Diff(s.want, slices.Sorted(maps.Keys(objects))); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
			pod := podOf(t, objects)
			checkPod(t, pod)
			if strings.Contains(s.name, "sqlite") || s.name == "gateway-files" || s.name == "plain-sidecar" {
				checkOnePod(t, objects)
			}
			if s.name == "gateway-postgres" {
				checkSpools(t, objects)
			}
			if !strings.HasPrefix(s.name, "gateway") {
				checkSidecar(t, pod)
			}
		})
	}
}

// checkPod checks a pod against the restricted Pod Security Standard and the needs of the
// program.
func checkPod(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if g := pod.TerminationGracePeriodSeconds; g == nil || *g != 90 {
		t.Errorf("terminationGracePeriodSeconds = %v, want 90", g)
	}
	if l := pod.EnableServiceLinks; l == nil || *l {
		t.Errorf("enableServiceLinks = %v, want false", l)
	}
	if m := pod.AutomountServiceAccountToken; m == nil || *m {
		t.Errorf("automountServiceAccountToken = %v, want false", m)
	}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			t.Errorf("volume %s is a host path", v.Name)
		}
	}
	// The pod's settings also apply to containers that are not ours.
	group := int64(65532)
	policy := corev1.FSGroupChangeOnRootMismatch
	if diff := cmp.Diff(&corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &policy}, pod.SecurityContext); diff != "" {
		t.Errorf("security context of the pod, want only a group for the volumes (-want +got):\n%s", diff)
	}
	c := proxyOf(t, pod)
	s := c.SecurityContext
	if !*s.RunAsNonRoot || *s.RunAsUser != 65532 || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 ||
		s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context = %v, want the settings of the restricted standard", s)
	}
	for _, app := range pod.Containers {
		if s := app.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil {
			t.Errorf("security context of %s = %v, want the settings of the restricted standard", app.Name, s)
		}
	}
	for name, probe := range map[string]*corev1.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != name || probe.HTTPGet.Port.StrVal != "pleo-health" {
			t.Errorf("probe of %s = %v", name, probe)
		}
	}
	for _, e := range c.Env {
		if e.Value != "" {
			t.Errorf("variable %s has a value in the manifest", e.Name)
		}
	}
}

// checkOnePod checks the settings that keep a second pod from using the store.
func checkOnePod(t *testing.T, objects map[string]any) {
	t.Helper()
	d := objects["Deployment"].(*appsv1.Deployment)
	if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("replicas %d, strategy %s; want 1, Recreate", *d.Spec.Replicas, d.Spec.Strategy.Type)
	}
	claim := objects["PersistentVolumeClaim"].(*corev1.PersistentVolumeClaim)
	if !slices.Equal(claim.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}) {
		t.Errorf("access modes %v, want ReadWriteOncePod", claim.Spec.AccessModes)
	}
}

// checkSpools checks that each pod has a separate volume, which its successor gets: it
// holds token pairs that are not in the database yet.
func checkSpools(t *testing.T, objects map[string]any) {
	t.Helper()
	s := objects["StatefulSet"].(*appsv1.StatefulSet)
	claims := s.Spec.VolumeClaimTemplates
	if len(claims) != 1 || claims[0].Name != "pleo-data" || s.Spec.PersistentVolumeClaimRetentionPolicy != nil {
		t.Errorf("claims %v, want one for pleo-data that is kept", claims)
	}
	for _, m := range proxyOf(t, s.Spec.Template.Spec).VolumeMounts {
		if m.Name == "pleo-data" && m.MountPath == "/var/lib/pleo-auth-proxy" {
			return
		}
	}
	t.Error("the claim is not mounted")
}

// checkSidecar checks that the proxy starts first, ends last and does not keep a Job from
// completing.
func checkSidecar(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if len(pod.InitContainers) != 1 {
		t.Fatalf("there are %d init containers, want 1", len(pod.InitContainers))
	}
	c := pod.InitContainers[0]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("restartPolicy = %v, want Always", c.RestartPolicy)
	}
	if c.StartupProbe == nil {
		t.Error("without a startup probe, the application starts before the proxy is ready")
	}
}

// TestPlainManifestsAreTheCharts checks that the manifests for users without Helm have the
// same container in the same pod.
func TestPlainManifestsAreTheCharts(t *testing.T) {
	all := map[string]corev1.PodSpec{}
	for _, s := range setups() {
		all[s.name] = podOf(t, decode(t, s.render(t)))
	}
	for plain, chart := range map[string]string{"plain-sidecar": "sidecar-sqlite", "plain-job": "sidecar-keys"} {
		if diff := cmp.Diff(all[chart].InitContainers, all[plain].InitContainers); diff != "" {
			t.Errorf("the container of %s differs from that of %s (-%[2]s +%[1]s):\n%s", plain, chart, diff)
		}
		if diff := cmp.Diff(all[chart].SecurityContext, all[plain].SecurityContext); diff != "" {
			t.Errorf("the pod of %s differs from that of %s (-%[2]s +%[1]s):\n%s", plain, chart, diff)
		}
	}
}

func TestKubeScoreFindsNothingCritical(t *testing.T) {
	for _, s := range setups() {
		t.Run(s.name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "manifest.yaml"), s.render(t))
			out, err := exec.Command(tool(t, "kube-score"), "score", "--output-format", "ci", file).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestChartRejects checks that values which could lose connections, or give access to
// everyone, are rejected with a reason.
func TestChartRejects(t *testing.T) {
	helm, chart := tool(t, "helm"), chartDir(t, "pleo-auth-proxy")
	erp := chartDir(t, "examples/erp")
	sqlite, postgres, keys, files := "gateway-sqlite", "gateway-postgres", "gateway-keys", "gateway-files"
	for _, test := range []struct {
		name, base string
		set        []string
		want       string
	}{
		{"OAuth in SQLite with two replicas", sqlite, []string{"replicas=2"}, "two pods would use the same refresh token"},
		{"OAuth in SQLite with a rolling update", sqlite, []string{"strategy=RollingUpdate"}, "runs the old and the new pod at the same time"},
		{"OAuth in SQLite with an autoscaler", sqlite, []string{"autoscaling.enabled=true"}, "two pods would use the same refresh token"},
		{"OAuth in SQLite on a claim for several pods", sqlite, []string{"store.claim.accessMode=ReadWriteMany"}, "permits a second pod"},
		{"OAuth in SQLite on a claim for one node", sqlite, []string{"store.claim.accessMode=ReadWriteOnce"}, "permits a second pod"},
		{"OAuth without a store", sqlite, []string{"store.driver=memory"}, "the memory store loses them at a restart"},
		{"a store without a keyset", sqlite, []string{"store.keyset.name="}, "store.keyset.name is required"},
		{"PostgreSQL without a connection string", postgres, []string{"store.dsn.name="}, "store.dsn.name is required"},
		{"OAuth without a client secret", sqlite, []string{"oauth.clientSecret.name="}, "oauth.clientSecret.name is required"},
		{"a client secret without a client", sqlite, []string{"oauth.clientId="}, "oauth.clientId is required"},
		{"a gateway without clients", keys, []string{"clients=null"}, "a gateway needs clients or clientNetworks"},
		{"a gateway whose policy admits no client", keys, []string{"networkPolicy.clients=null"}, "no client could use the gateway"},
		{"a gateway whose policy admits every client", keys, []string{"networkPolicy.clients=[]"}, "no client could use the gateway"},
		{"nothing to serve", keys, []string{"connections=null"}, "store.driver memory requires connections"},
		{"no image", keys, []string{"image.repository="}, "image.repository is required"},
		{"an ingress without a public URL", sqlite, []string{"connect.publicUrl="}, "connect.ingress requires connect.publicUrl"},
		{"an inline secret", sqlite, []string{"config.oauth.client_secret=s3cret"}, "config.oauth.client_secret is set by the chart; use oauth.clientSecret"},
		{"another store by config", sqlite, []string{"config.store.driver=memory"}, "config.store is set by the chart"},
		{"two connections with one name", keys, []string{"connections[1].name=Acme"}, "connections has the names acme and Acme, which are the same"},
		{"two clients with one name", keys, []string{"clients[1].name=erp", "clients[1].token.name=t", "clients[1].token.key=k"}, "clients has the names erp and erp, which are the same"},
		{"an autoscaler with more pods than it may have", postgres, []string{"autoscaling.minReplicas=7"}, "autoscaling.minReplicas is 7, more than autoscaling.maxReplicas, which is 6"},
		{"ACME with several pods", postgres, []string{"config.connect.tls.acme.domains[0]=connect.example.com"}, "config.connect.tls.acme does not work with several pods"},
		{"a key that the program does not know", keys, []string{"config.upstream.timeuot=30s"}, "at '/config/upstream': additional properties 'timeuot' not allowed"},
		{"a section that the program does not know", keys, []string{"config.logging.level=info"}, "at '/config': additional properties 'logging' not allowed"},
		{"a string for a section", keys, []string{"config.log=info"}, "at '/config/log': got string, want object"},
		{"a section for a string", keys, []string{"config.log.format.is=json"}, "at '/config/log/format'"},
		{"a value that the program does not know", keys, []string{"config.log.level=loud"}, "value must be one of 'debug', 'info', 'warn', 'error'"},
		{"a password in the ConfigMap", keys, []string{"config.upstream.proxy_url=http://u:s3cret@proxy:3128"}, "put the URL into a Secret and set upstream.proxyUrl to it"},
		{"two forward proxies", files, []string{"config.upstream.proxy_url=http://proxy:3128"}, "config.upstream.proxy_url and upstream.proxyUrl are both set"},
		{"a file that is not in the pod", keys, []string{"config.upstream.ca_file=/etc/ca.crt"}, "config.upstream.ca_file names /etc/ca.crt, which does not exist in the pod"},
		{"a file that is misspelt", files, []string{"config.connect.branding.logo_file=/run/secrets/pleo-auth-proxy/files/logo.png"},
			"config.connect.branding.logo_file names /run/secrets/pleo-auth-proxy/files/logo.png, which does not exist in the pod"},
		{"a webhook's secret that is not in files", files, []string{"config.webhooks[0].secret_file=/run/secrets/pleo-auth-proxy/files/hook"},
			"config.webhooks[0].secret_file names"},
		{"a file without a source", keys, []string{"files.logo.key=logo.svg"}, "files.logo must have either a secret or a configMap"},
		{"a file with two sources", files, []string{"files.webhook.configMap=pleo-webhook"}, "files.webhook must have either a secret or a configMap"},
		{"a file with a path for a name", keys, []string{"files.a/b.secret=s", "files.a/b.key=k"}, "a/b"},
		{"a socket for other pods", keys, []string{"sidecar.socket=true"}, "sidecar.socket is for mode sidecar"},
		{"an unknown value", keys, []string{"replicaCount=2"}, "replicaCount"},
		{"a secret instead of a reference", keys, []string{"connections[0].apiKey=pls_x"}, "apiKey"},
		{"a name that is not valid for a connection", keys, []string{"connections[0].name=a/b"}, "name"},
		{"a sidecar with SQLite and two replicas", "", []string{
			"pleo-auth-proxy.store.driver=sqlite", "pleo-auth-proxy.store.keyset.name=k", "pleo-auth-proxy.replicas=2",
		}, "two pods would use the same refresh token"},
		{"a sidecar's file that is not in the pod", "", []string{"pleo-auth-proxy.config.upstream.ca_file=/etc/ca.crt"}, "which does not exist in the pod"},
		{"a sidecar's key that the program does not know", "", []string{"pleo-auth-proxy.config.upstream.cafile=/etc/ca.crt"}, "additional properties 'cafile' not allowed"},
		{"an ingress in front of a sidecar", "", []string{"pleo-auth-proxy.serviceMonitor.enabled=true"}, "are for mode gateway"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"template", "pleo", erp}
			if test.base != "" {
				args = []string{"template", "pleo", chart, "--values", repository("charts", "pleo-auth-proxy", "ci", test.base+".yaml")}
			}
			for _, s := range test.set {
				how := "--set"
				if strings.HasSuffix(s, "=[]") {
					how = "--set-json"
				}
				args = append(args, how, s)
			}
			out, err := exec.Command(helm, args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("helm %q: %v, want an error with %q:\n%s", args, err, test.want, out)
			}
		})
	}
}

// TestChartSaysWhatIsNext checks that the notes show the address of the gateway,
// and commands with the names of the rendered objects.
func TestChartSaysWhatIsNext(t *testing.T) {
	for name, want := range map[string][]string{
		"gateway-keys":     {"http://pleo-pleo-auth-proxy:8484/@CONNECTION", "deployment/pleo-pleo-auth-proxy 8485", "It shows the connections"},
		"gateway-sqlite":   {"https://connect.example.com/oauth/callback with Pleo", "set admin.token to a Secret with a token"},
		"gateway-postgres": {"statefulset/pleo-pleo-auth-proxy 8485", "admin-token of the Secret pleo-admin"},
		"gateway-files":    {"https://pleo-pleo-auth-proxy:8484/@CONNECTION"},
	} {
		s := setupNamed(t, name)
		args := append([]string{"install", "pleo", chartDir(t, s.chart), "--namespace", "pleo", "--dry-run=client"}, s.values...)
		_, notes, _ := strings.Cut(output(t, tool(t, "helm"), args...), "\nNOTES:\n")
		for _, part := range want {
			if !strings.Contains(notes, part) {
				t.Errorf("the notes of %s lack %q:\n%s", name, part, notes)
			}
		}
	}
}

// TestChartAddsToTheHosts checks that hosts allowed by the user are kept, and that the
// short name of the Service is added only if clients need a token.
func TestChartAddsToTheHosts(t *testing.T) {
	for name, want := range map[string]string{
		"gateway-keys":   "allowed_hosts:\n  - pleo.example.com\n  - pleo-pleo-auth-proxy.pleo\n",
		"gateway-sqlite": "allowed_hosts:\n  - pleo.example.com\n  client_networks:",
	} {
		objects := decode(t, setupNamed(t, name).render(t, "--set", "config.proxy.allowed_hosts[0]=pleo.example.com"))
		config := objects["ConfigMap"].(*corev1.ConfigMap).Data["config.yaml"]
		if !strings.Contains(config, want) {
			t.Errorf("%s has the configuration\n%s\nwant in it\n%s", name, config, want)
		}
	}
}

// TestChartRendersAlerts renders the rules exactly as `make alerts` tests them.
func TestChartRendersAlerts(t *testing.T) {
	var want monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(read(t, repository("charts", "pleo-auth-proxy", "files", "alerts.yaml"))), &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Groups) == 0 {
		t.Fatal("files/alerts.yaml of the chart has no rules")
	}
	for _, chart := range []string{chartDir(t, "pleo-auth-proxy"), repository("charts", "pleo-auth-proxy")} {
		manifest := output(t, tool(t, "helm"), "template", "pleo", chart, "--set", "prometheusRule.enabled=true",
			"--values", repository("charts", "pleo-auth-proxy", "ci", "gateway-keys.yaml"))
		rule, ok := decode(t, manifest)["PrometheusRule"].(*monitoringv1.PrometheusRule)
		if !ok {
			t.Fatalf("%s renders no PrometheusRule", chart)
		}
		if diff := cmp.Diff(want, rule.Spec); diff != "" {
			t.Errorf("rules of %s (-want +got):\n%s", chart, diff)
		}
	}
}
