// A plugin of the Node Resource Interface that does what a script says and writes down what it hears:
// the tests' plugin, on the library that nearly all plugins use.
//
// The script is JSON, from -script or, where the engine has started it, from its configuration. What
// it hears goes into the file `log`, one object a line: the event, the pod, the container.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// script says what to do at which event. In the ids of updates and evictions @NAME stands for the
// container of that name that was seen last.
type script struct {
	Log string `json:"log"`
	// By name of the container; messages in protobuf's JSON.
	Adjust map[string]json.RawMessage `json:"adjust"`
	// By event: an UpdateContainersRequest that goes with the answer.
	Answer map[string]json.RawMessage `json:"answer"`
	// The same, as a request of its own.
	Want map[string]json.RawMessage `json:"want"`
	// By event: the error that is the answer.
	Fail map[string]string `json:"fail"`
	// By event: no answer; the end of the process; bytes that mean nothing.
	Hang     []string `json:"hang"`
	Die      []string `json:"die"`
	Nonsense []string `json:"nonsense"`
	// Why adjustments are rejected; empty: they are not. Null: nobody asks.
	Reject *string `json:"reject"`
	// What becomes of requests that are not answered.
	Policy *api.FailurePolicy `json:"policy"`
}

type plugin struct {
	sync.Mutex
	script
	stub stub.Stub
	conn net.Conn
	ids  map[string]string
	log  *os.File
}

func main() {
	index := flag.String("idx", "", "two digits")
	name := flag.String("name", "", "name of the plugin")
	socket := flag.String("socket", "", "where the engine listens")
	file := flag.String("script", "", "what to do")
	flag.Parse()
	p := &plugin{ids: map[string]string{}}
	options := []stub.Option{stub.WithTTRPCOptions(
		[]ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(evictions)},
		[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(p.answers)},
	)}
	if *file != "" {
		text, err := os.ReadFile(*file)
		check(err)
		check(p.read(string(text)))
		options = append(options, stub.WithPluginName(*name), stub.WithPluginIdx(*index),
			stub.WithDialer(func(string) (net.Conn, error) {
				conn, err := net.Dial("unix", *socket)
				p.conn = conn
				return conn, err
			}))
	}
	if p.Policy != nil {
		options = append(options, stub.WithFailurePolicy(p.Policy))
	}
	var what any = p
	if p.Reject != nil {
		what = &judge{p}
	}
	var err error
	p.stub, err = stub.New(what, options...)
	check(err)
	// The engine may end the connection: then so does the plugin.
	if err := p.stub.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (p *plugin) read(text string) error {
	if err := json.Unmarshal([]byte(text), &p.script); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	p.log = log
	return err
}

func has(events []string, event string) bool {
	for _, one := range events {
		if one == event {
			return true
		}
	}
	return false
}

func object(message proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
	check(err)
	return text
}

func (p *plugin) write(line map[string]any) {
	text, err := json.Marshal(line)
	check(err)
	_, err = p.log.Write(append(text, '\n'))
	check(err)
}

// heard writes an event down and does what the script says of every event.
func (p *plugin) heard(event string, pod *api.PodSandbox, container *api.Container, more map[string]any) error {
	p.Lock()
	line := map[string]any{"event": event}
	if pod != nil {
		line["pod"] = object(pod)
	}
	if container != nil {
		line["container"] = object(container)
		p.ids[container.Name] = container.Id
	}
	for key, value := range more {
		line[key] = value
	}
	p.write(line)
	p.Unlock()
	if has(p.Hang, event) {
		time.Sleep(time.Hour)
	}
	if has(p.Die, event) {
		os.Exit(1)
	}
	if has(p.Nonsense, event) {
		p.conn.Write([]byte("HTTP/1.1 418 I'm a teapot\r\n\r\n"))
		time.Sleep(time.Hour)
	}
	if want, ok := p.Want[event]; ok {
		go p.want(p.request(want))
	}
	if text, ok := p.Fail[event]; ok {
		return errors.New(text)
	}
	return nil
}

// request is an UpdateContainersRequest with names replaced by ids.
func (p *plugin) request(raw json.RawMessage) *api.UpdateContainersRequest {
	p.Lock()
	defer p.Unlock()
	text := string(raw)
	for name, id := range p.ids {
		text = strings.ReplaceAll(text, `"@`+name+`"`, `"`+id+`"`)
	}
	request := &api.UpdateContainersRequest{}
	check(protojson.Unmarshal([]byte(text), request))
	return request
}


var pending struct {
	sync.Mutex
	evict []*api.ContainerEviction
}

// want asks for changes by itself. The library knows no evictions there: they are added on the way.
func (p *plugin) want(request *api.UpdateContainersRequest) {
	pending.Lock()
	pending.evict = request.Evict
	pending.Unlock()
	failed, err := p.stub.UpdateContainers(request.Update)
	ids := []string{}
	for _, one := range failed {
		ids = append(ids, one.ContainerId)
	}
	p.Lock()
	defer p.Unlock()
	p.write(map[string]any{"event": "Wanted", "failed": ids, "error": fmt.Sprint(err)})
}

func evictions(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, next ttrpc.Invoker) error {
	if req.Method == "UpdateContainers" {
		request := &api.UpdateContainersRequest{}
		check(proto.Unmarshal(req.Payload, request))
		pending.Lock()
		request.Evict = pending.evict
		pending.Unlock()
		payload, err := proto.Marshal(request)
		check(err)
		req.Payload = payload
	}
	return next(ctx, req, resp)
}

// answers adds updates and evictions to answers, where the library has no place for them.
func (p *plugin) answers(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	answer, err := method(ctx, unmarshal)
	parts := strings.Split(info.FullMethod, "/")
	raw, ok := p.Answer[parts[len(parts)-1]]
	if err != nil || !ok {
		return answer, err
	}
	request := p.request(raw)
	switch answer := answer.(type) {
	case *api.CreateContainerResponse:
		answer.Update, answer.Evict = append(answer.Update, request.Update...), request.Evict
	case *api.UpdateContainerResponse:
		answer.Update, answer.Evict = append(answer.Update, request.Update...), request.Evict
	case *api.StopContainerResponse:
		answer.Update = append(answer.Update, request.Update...)
	case *api.SynchronizeResponse:
		answer.Update = append(answer.Update, request.Update...)
	}
	return answer, nil
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	if config != "" {
		if err := p.read(config); err != nil {
			return 0, err
		}
	}
	return 0, p.heard("Configure", nil, nil, map[string]any{
		"runtime": runtime, "version": version, "nri": p.stub.RuntimeNRIVersion(),
		"registration": p.stub.RegistrationTimeout().String(), "request": p.stub.RequestTimeout().String(),
	})
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	all := map[string]any{}
	var there []json.RawMessage
	for _, pod := range pods {
		there = append(there, object(pod))
	}
	all["pods"] = there
	there = nil
	for _, container := range containers {
		p.ids[container.Name] = container.Id
		there = append(there, object(container))
	}
	all["containers"] = there
	return nil, p.heard("Synchronize", nil, nil, all)
}

func (p *plugin) Shutdown(context.Context) { p.heard("Shutdown", nil, nil, nil) }

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("RunPodSandbox", pod, nil, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, over, resources *api.LinuxResources) error {
	return p.heard("UpdatePodSandbox", pod, nil, map[string]any{"overhead": object(over), "resources": object(resources)})
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("PostUpdatePodSandbox", pod, nil, nil)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("StopPodSandbox", pod, nil, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.heard("RemovePodSandbox", pod, nil, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.heard("CreateContainer", pod, container, nil); err != nil {
		return nil, nil, err
	}
	raw, ok := p.Adjust[container.Name]
	if !ok {
		return nil, nil, nil
	}
	text := strings.ReplaceAll(string(raw), "@id", container.Id)
	adjust := &api.ContainerAdjustment{}
	return adjust, nil, protojson.Unmarshal([]byte(text), adjust)
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostCreateContainer", pod, container, nil)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("StartContainer", pod, container, nil)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostStartContainer", pod, container, nil)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container, resources *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	return nil, p.heard("UpdateContainer", pod, container, map[string]any{"resources": object(resources)})
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("PostUpdateContainer", pod, container, nil)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.heard("StopContainer", pod, container, nil)
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.heard("RemoveContainer", pod, container, nil)
}

// judge is a plugin that validates, too.
type judge struct{ *plugin }

func (j *judge) ValidateContainerAdjustment(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	if err := j.heard("ValidateContainerAdjustment", req.Pod, req.Container, map[string]any{"request": object(req)}); err != nil {
		return err
	}
	if *j.Reject != "" {
		return errors.New(*j.Reject)
	}
	return nil
}
