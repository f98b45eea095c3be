// Command health serves gRPC's health protocol on the port that it is given: what a kubelet's gRPC
// probe asks. It is SERVING until the file in its second argument appears.
package main

import (
	"context"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

type server struct {
	grpc_health_v1.UnimplementedHealthServer
	unless string
}

func (s server) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if _, err := os.Stat(s.unless); err == nil {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return &grpc_health_v1.HealthCheckResponse{Status: status}, nil
}

func main() {
	listener, err := net.Listen("tcp", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	answering := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(answering, server{unless: os.Args[2]})
	log.Fatal(answering.Serve(listener))
}
