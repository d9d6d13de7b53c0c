// weir-cni holds a pod back until Weir's agent has captured it. It stands last in a pod's chain of plugins, and prints
// what those before it have made, to the byte. It is thin: the agent decides (agent/cni/server.py). Only where it gives
// no answer is the API asked whether the pod is to be captured at all.
package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Two errors as the CNI specification numbers them, ADD can't be serviced and a plugin's own; bytes of an answer.
const notAvailable, refused, most = 50, 100, 4 << 20

// conf is the plugin's entry in the conflist as agent/cni/entry.py writes it, and what the runtime adds.
type conf struct {
	CNIVersion        string          `json:"cniVersion"`
	PrevResult        json.RawMessage `json:"prevResult"`
	AgentSocket       string          `json:"agentSocket"`
	Kubeconfig        string          `json:"kubeconfig"`
	ExcludeNamespaces []string        `json:"excludeNamespaces"`
	ExemptPods        []string        `json:"exemptPods"` // NAMESPACE/NAME, where a * in NAME stands for anything
	FailOpen          []string        `json:"failOpen"`
	Selectors         []enablement    `json:"selectors"`
	Timeout           time.Duration   `json:"timeoutMilliseconds"` // for the agent's answer
	StatusGrace       float64         `json:"statusGrace"`         // seconds for which nobody may answer; 0: for ever
}

// sandbox is what the agent is told (agent/cni/protocol.py).
type sandbox struct {
	Container string   `json:"container"`
	Interface string   `json:"interface"`
	Netns     string   `json:"netns"`
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	UID       string   `json:"uid"`
	Addresses []string `json:"addresses"`
}

func main() {
	plugin := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
	skel.PluginMainFuncs(plugin, version.All, "weir-cni: has pods captured before they start, by Weir's agent")
}

func add(args *skel.CmdArgs) error {
	c, s, err := asked("add", args)
	if errors.As(err, &noAnswer{}) {
		err = c.withoutAgent(s, err)
	}
	if err != nil {
		return err
	}
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		c.PrevResult, _ = json.Marshal(map[string]string{"cniVersion": c.CNIVersion})
	}
	_, err = fmt.Printf("%s\n", c.PrevResult)
	return err
}

// A runtime that can't delete a pod tries for ever, so this never fails. The agent sweeps what it wasn't told of.
func del(args *skel.CmdArgs) error { _, _, _ = asked("del", args); return nil }

// An agent that is away says nothing about a pod that runs.
func check(args *skel.CmdArgs) error {
	_, _, err := asked("check", args)
	if errors.As(err, &noAnswer{}) {
		return nil
	}
	return err
}

func gc(args *skel.CmdArgs) error {
	if c, _, err := read(args); err == nil {
		_ = c.ask("gc", json.RawMessage(args.StdinData))
	}
	return nil
}

// status fails only when the agent has been away for longer than a restart takes: then the node is not ready, and the
// kubelet starts no pod on it but those of the host's network. The time is kept in a file, which the agent deletes too.
func status(args *skel.CmdArgs) error {
	c, _, err := read(args)
	if err != nil {
		return err
	}
	mark := c.AgentSocket + ".away"
	if err = c.ask("status", struct{}{}); err == nil {
		_ = os.Remove(mark)
		return nil
	}
	now, began := seconds("/proc/uptime"), seconds(mark) // since boot: a clock that doesn't jump
	if began <= 0 || began > now {
		began = now
		_ = os.MkdirAll(filepath.Dir(mark), 0o700)
		_ = os.WriteFile(mark, []byte(fmt.Sprintln(now)), 0o600)
	}
	if c.StatusGrace <= 0 || now-began < c.StatusGrace {
		return nil
	}
	text := fmt.Sprintf("for %.0f seconds Weir could capture no pod: %v", now-began, err)
	return types.NewError(notAvailable, text, "see whether its agent runs on this node, and why not")
}

func seconds(of string) (n float64) { t, _ := os.ReadFile(of); fmt.Sscan(string(t), &n); return n }

// asked puts a question about a sandbox where it may: the agent's own pod and the proxy's can't wait for the agent.
func asked(verb string, args *skel.CmdArgs) (*conf, *sandbox, error) {
	c, s, err := read(args)
	exempt := func(name string) bool { same, _ := path.Match(name, s.Namespace+"/"+s.Pod); return same }
	if err == nil && s.Namespace != "" && s.Pod != "" && !slices.Contains(c.ExcludeNamespaces, s.Namespace) &&
		!slices.ContainsFunc(c.ExemptPods, exempt) {
		err = c.ask(verb, s)
	}
	return c, s, err
}

func read(args *skel.CmdArgs) (*conf, *sandbox, error) {
	c := &conf{Timeout: 10_000}
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "weir-cni: its entry can't be read: "+err.Error(),
			"the agent's installer writes the entry: see its log, and who else writes in cniConfDir")
	}
	given := map[string]string{}
	for _, pair := range strings.Split(args.Args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		given[key] = value
	}
	s := &sandbox{args.ContainerID, args.IfName, args.Netns,
		given["K8S_POD_NAMESPACE"], given["K8S_POD_NAME"], given["K8S_POD_UID"], []string{}}
	var made struct{ IPs []struct{ Address string } }
	_ = json.Unmarshal(c.PrevResult, &made) // there may be none; the agent refuses what is no address
	for _, ip := range made.IPs {
		s.Addresses = append(s.Addresses, ip.Address)
	}
	return c, s, nil
}

// withoutAgent decides on a pod about which the agent gave no answer: nil lets it start.
func (c *conf) withoutAgent(s *sandbox, why error) error {
	if slices.Contains(c.FailOpen, s.Namespace) {
		fmt.Fprintf(os.Stderr, "weir-cni: %s/%s starts uncaptured, by failOpen: %v\n", s.Namespace, s.Pod, why)
		return nil
	}
	ambient, unknown := c.ambient(s)
	if unknown == nil && !ambient {
		return nil
	}
	// It may be restarting, and the kubelet waits for ten seconds before it tries again.
	c.Timeout = c.Timeout * 3 / 10
	for end := time.Now().Add(c.Timeout * time.Millisecond); errors.As(why, &noAnswer{}) && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		why = c.ask("add", s)
	}
	if !errors.As(why, &noAnswer{}) {
		return why
	}
	doubt := "it is to be captured"
	if unknown != nil {
		doubt = fmt.Sprintf("whether it is to be captured can't be told (%v)", unknown)
	}
	text := fmt.Sprintf("pod %s/%s: Weir's agent gave no answer (%v), and %s", s.Namespace, s.Pod, why, doubt)
	return types.NewError(types.ErrTryAgainLater, text, "see whether the agent runs on this node, and why not")
}

// noAnswer is what became of a question that the agent didn't answer, or not with anything that counts.
type noAnswer struct{ error }

// ask puts a question to the agent. It returns nil, the agent's own words, or noAnswer.
func (c *conf) ask(verb string, question any) error {
	var said struct{ Error, Hint string }
	text, err := c.told(verb, question)
	head, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	code, unread := 0, json.Unmarshal(body, &said)
	_, strange := fmt.Sscanf(string(head), "HTTP/1.%d %d", new(int), &code)
	switch err = cmp.Or(err, strange, unread); {
	case errors.Is(err, syscall.EAGAIN):
		return noAnswer{os.ErrDeadlineExceeded}
	case err != nil:
		return noAnswer{err}
	case code >= 500:
		return noAnswer{errors.New(said.Error)}
	case code != http.StatusOK:
		return types.NewError(refused, said.Error, said.Hint)
	}
	return nil
}

// told returns what the agent answers. HTTP by hand on a plain socket: net's poller and net/http would take longer.
func (c *conf) told(verb string, question any) ([]byte, error) {
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	agent, patience := os.NewFile(uintptr(socket), ""), syscall.NsecToTimeval(int64(c.Timeout)*1e6)
	defer agent.Close()
	_ = syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &patience)
	_ = syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience)
	if err = syscall.Connect(socket, &syscall.SockaddrUnix{Name: c.AgentSocket}); err != nil {
		return nil, fmt.Errorf("connect %s: %w", c.AgentSocket, err)
	}
	body, _ := json.Marshal(question)
	_, _ = fmt.Fprintf(agent, "POST /v1/cni/%s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", verb, len(body), body)
	return io.ReadAll(io.LimitReader(agent, most))
}

// enablement is one way for a pod to be captured: all requirements on its labels and its namespace's are met.
type enablement struct{ Pod, Namespace []requirement }

type requirement struct {
	Key, Operator string
	Values        []string
}

type object struct {
	Metadata struct {
		UID                 string
		Labels, Annotations map[string]string
	}
}

// ambient asks the API whether a pod is to be captured, and decides it as Istio's plugin does.
func (c *conf) ambient(s *sandbox) (bool, error) {
	var namespace, pod object
	err := c.get(map[string]*object{s.Namespace: &namespace, s.Namespace + "/pods/" + s.Pod: &pod})
	// A static pod's copy in the API has a UID of its own, and says whose copy it is.
	known := []string{"", pod.Metadata.UID, pod.Metadata.Annotations["kubernetes.io/config.mirror"]}
	if err == nil && !slices.Contains(known, s.UID) {
		err = fmt.Errorf("the API has another pod of that name (uid %s, not %s)", pod.Metadata.UID, s.UID)
	}
	if _, injected := pod.Metadata.Annotations["sidecar.istio.io/status"]; injected {
		return false, err
	}
	return slices.ContainsFunc(c.Selectors, func(way enablement) bool {
		return met(way.Pod, pod.Metadata.Labels) && met(way.Namespace, namespace.Metadata.Labels)
	}), err
}

// get reads objects of the core API, with the kubeconfig that agent/cni/kubeconfig.py has written.
func (c *conf) get(objects map[string]*object) error {
	var config struct {
		Clusters [1]struct{ Cluster map[string]string }
		Users    [1]struct{ User map[string]string }
	}
	text, err := os.ReadFile(c.Kubeconfig)
	_ = json.Unmarshal(text, &config) // what is missing then is named below
	cluster, trusted := config.Clusters[0].Cluster, &tls.Config{RootCAs: x509.NewCertPool()}
	authority, unread := os.ReadFile(cluster["certificate-authority"])
	token, lacking := os.ReadFile(config.Users[0].User["tokenFile"])
	if err = cmp.Or(err, unread, lacking); err != nil || !trusted.RootCAs.AppendCertsFromPEM(authority) {
		return fmt.Errorf("kubeconfig %s names no server with its authority and a token: %w", c.Kubeconfig, err)
	}
	no := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // no redirect gets our token
	api := http.Client{Timeout: 3 * time.Second, CheckRedirect: no, Transport: &http.Transport{TLSClientConfig: trusted}}
	for path, into := range objects {
		request, err := http.NewRequest("GET", cluster["server"]+"/api/v1/namespaces/"+path, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		answer, err := api.Do(request) // its error says what was asked
		if err != nil {
			return err
		}
		err = json.NewDecoder(io.LimitReader(answer.Body, most)).Decode(into)
		if err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: status %d, %v", request.URL, answer.StatusCode, err)
		}
	}
	return nil
}

func met(requirements []requirement, labels map[string]string) bool {
	for _, each := range requirements {
		value, there := labels[each.Key]
		in := there && slices.Contains(each.Values, value)
		fits, known := map[string]bool{"In": in, "NotIn": !in, "Exists": there, "DoesNotExist": !there}[each.Operator]
		if known && !fits { // what isn't known counts as met: better a pod that waits than one that leaks
			return false
		}
	}
	return true
}
