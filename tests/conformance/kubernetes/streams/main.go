// Command streams is what kubectl does for exec, attach and port-forward, aimed at a kubelet itself.
//
//	streams spdy|websocket stdio URL     standard input and output over an exec or attach URL
//	streams spdy|websocket port URL N    standard input to port N of the pod, its answer to output
//
// It ends with the command's exit code, or with 99 if the session broke. The kubelet's certificate is
// its own and is not checked.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	err := run(os.Args[1:])
	var code exec.CodeExitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(code.Code)
	default:
		fmt.Fprintln(os.Stderr, "streams:", err)
		os.Exit(99)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: spdy|websocket stdio|port URL [PORT]")
	}
	target, err := url.Parse(args[2])
	if err != nil {
		return err
	}
	config := &rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	if args[1] == "port" {
		return forward(config, args[0] == "websocket", target, args[3])
	}
	return stdio(config, args[0] == "websocket", target)
}

// stdio asks for the streams that the URL names.
func stdio(config *rest.Config, websocket bool, target *url.URL) error {
	var executor remotecommand.Executor
	var err error
	if websocket {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	}
	if err != nil {
		return err
	}
	query := target.Query()
	options := remotecommand.StreamOptions{Tty: query.Get("tty") == "1"}
	if query.Get("input") == "1" {
		options.Stdin = os.Stdin
	}
	if query.Get("output") == "1" {
		options.Stdout = os.Stdout
	}
	if query.Get("error") == "1" {
		options.Stderr = os.Stderr
	}
	return executor.StreamWithContext(context.Background(), options)
}

// forward connects to one port of a pod, through a listener as kubectl's users do.
func forward(config *rest.Config, websocket bool, target *url.URL, port string) error {
	dialer, err := dialer(config, websocket, target)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case err := <-failed:
		return err
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	return talk(fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
}

func dialer(config *rest.Config, websocket bool, target *url.URL) (httpstream.Dialer, error) {
	if websocket {
		return portforward.NewSPDYOverWebsocketDialer(target, config)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target), nil
}

// talk says all of standard input, half-closes, and prints the answer to its end.
func talk(address string) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.Copy(connection, os.Stdin); err != nil {
		return err
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, connection)
	return err
}
