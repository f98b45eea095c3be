// Where hack/peers takes etcd from: its module has no program, so that one of one call is here.
module wherry/peers/etcd

go 1.26.0

require go.etcd.io/etcd/server/v3 v3.6.16
