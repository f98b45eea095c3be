// Where hack/peers takes CoreDNS from: the few of its plugins that a cluster's DNS needs.
module wherry/peers/coredns

go 1.26.0

require github.com/coredns/coredns v1.15.0
