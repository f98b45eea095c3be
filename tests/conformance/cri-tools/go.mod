// Where hack/peers takes crictl and critest from: sigs.k8s.io/cri-tools cannot be had with
// `go install`, but a module that requires it can be built.
module wherry/peers/cri-tools

go 1.26.2

require sigs.k8s.io/cri-tools v1.36.0
