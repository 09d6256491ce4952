//! The text files of a fresh node.
//!
//! Where the recording `fresh-node.json` holds a file's content, this is that content, but for the
//! manifest of the pod network: there the recording is not complete, and no kubectl takes it. Files
//! that it names by their size alone belong to the container runtime and to git; a standalone
//! node runs neither, and gets short ones of our own.

/// Path below `$SNAP_DATA` and content, in the order of the recording; all mode 0644.
pub(super) const TEXT_FILES: &[(&str, &str)] = &[
    (
        "args/admission-control-config-file.yaml",
        r#"apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  path: eventconfig.yaml
"#,
    ),
    (
        "args/apiserver-proxy",
        r#"--traefik-config ${SNAP_DATA}/args/traefik/traefik.yaml
--kubeconfig ${SNAP_DATA}/credentials/kubelet.config
--refresh-interval 30s
"#,
    ),
    (
        "args/certs.d/docker.io/hosts.toml",
        r#"server = "https://docker.io"
"#,
    ),
    (
        "args/certs.d/localhost__32000/hosts.toml",
        r#"server = "http://localhost:32000"
"#,
    ),
    (
        "args/cni-env",
        r#"# Networks of pods and services; read by the start-up of the pod network.
IPv4_SUPPORT=true
IPv4_CLUSTER_CIDR=10.1.0.0/16
IPv4_SERVICE_CIDR=10.152.183.0/24
"#,
    ),
    (
        "args/cni-network/cni.yaml",
        r#"# The pod network of a node without a container runtime: what others change of it, and no more.
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: calico-node
  namespace: kube-system
  labels:
    k8s-app: calico-node
spec:
  selector:
    matchLabels:
      k8s-app: calico-node
  template:
    metadata:
      labels:
        k8s-app: calico-node
    spec:
      hostNetwork: true
      containers:
      - name: calico-node
        image: docker.io/calico/node:v3.28.1
        env:
        - name: IP_AUTODETECTION_METHOD
          value: "first-found"
"#,
    ),
    (
        "args/cni-network/flannel.conflist",
        r#"{"name": "microk8s-flannel-network", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}]}
"#,
    ),
    (
        "args/containerd",
        r#"--config ${SNAP_DATA}/args/containerd.toml
--root ${SNAP_COMMON}/var/lib/containerd
--address ${SNAP_COMMON}/run/containerd.sock
"#,
    ),
    (
        "args/containerd-env",
        r#"# Environment of the container runtime, one NAME=value a line.
"#,
    ),
    (
        "args/containerd-template.toml",
        r#"version = 2
"#,
    ),
    (
        "args/ctr",
        r#"--address=${SNAP_COMMON}/run/containerd.sock
--namespace k8s.io
"#,
    ),
    (
        "args/etcd",
        r#"--data-dir=${SNAP_COMMON}/var/run/etcd
--advertise-client-urls=https://${DEFAULT_INTERFACE_IP_ADDR}:12379
--listen-client-urls=https://0.0.0.0:12379
--client-cert-auth
--trusted-ca-file=${SNAP_DATA}/certs/ca.crt
--cert-file=${SNAP_DATA}/certs/server.crt
--key-file=${SNAP_DATA}/certs/server.key
"#,
    ),
    (
        "args/eventconfig.yaml",
        r#"apiVersion: eventratelimit.admission.k8s.io/v1alpha1
kind: Configuration
limits:
- type: Server
  qps: 5000
  burst: 20000
"#,
    ),
    (
        "args/flannel-network-mgr-config",
        r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
"#,
    ),
    (
        "args/flannel-template.conflist",
        r#"{"name": "microk8s-flannel-network", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}]}
"#,
    ),
    (
        "args/flanneld",
        r#"--iface=""
--etcd-endpoints=https://127.0.0.1:12379
--etcd-cafile=${SNAP_DATA}/certs/ca.crt
--etcd-certfile=${SNAP_DATA}/certs/server.crt
--etcd-keyfile=${SNAP_DATA}/certs/server.key
--subnet-file=${SNAP_COMMON}/run/flannel/subnet.env
--ip-masq=true
"#,
    ),
    (
        "args/git/.gitconfig",
        r#"[safe]
	directory = *
"#,
    ),
    (
        "args/ha-conf",
        r#"failure-domain=1
"#,
    ),
    (
        "args/k8s-dqlite",
        r#"--storage-dir=${SNAP_DATA}/var/kubernetes/backend/
--listen=unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379
"#,
    ),
    (
        "args/k8s-dqlite-env",
        r#"# Environment of the datastore, one NAME=value a line.
"#,
    ),
    (
        "args/kube-apiserver",
        r#"--cert-dir=${SNAP_DATA}/certs
--service-cluster-ip-range=10.152.183.0/24
--authorization-mode=AlwaysAllow
--service-account-key-file=${SNAP_DATA}/certs/serviceaccount.key
--client-ca-file=${SNAP_DATA}/certs/ca.crt
--tls-cert-file=${SNAP_DATA}/certs/server.crt
--tls-private-key-file=${SNAP_DATA}/certs/server.key
--tls-cipher-suites=TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_RSA_WITH_3DES_EDE_CBC_SHA,TLS_RSA_WITH_AES_128_CBC_SHA,TLS_RSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_256_CBC_SHA,TLS_RSA_WITH_AES_256_GCM_SHA384
--kubelet-client-certificate=${SNAP_DATA}/certs/apiserver-kubelet-client.crt
--kubelet-client-key=${SNAP_DATA}/certs/apiserver-kubelet-client.key
--secure-port=16443
--etcd-servers="unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379"
--allow-privileged=true
--service-account-issuer='https://kubernetes.default.svc'
--service-account-signing-key-file=${SNAP_DATA}/certs/serviceaccount.key
--event-ttl=5m
--profiling=false
--feature-gates=ListFromCacheSnapshot=false,SizeBasedListCostEstimate=false,DetectCacheInconsistency=false

# Enable the aggregation layer
--requestheader-client-ca-file=${SNAP_DATA}/certs/front-proxy-ca.crt
--requestheader-allowed-names=front-proxy-client
--requestheader-extra-headers-prefix=X-Remote-Extra-
--requestheader-group-headers=X-Remote-Group
--requestheader-username-headers=X-Remote-User
--proxy-client-cert-file=${SNAP_DATA}/certs/front-proxy-client.crt
--proxy-client-key-file=${SNAP_DATA}/certs/front-proxy-client.key
#~Enable the aggregation layer
--enable-admission-plugins=EventRateLimit
--admission-control-config-file=${SNAP_DATA}/args/admission-control-config-file.yaml
--kubelet-certificate-authority=${SNAP_DATA}/certs/ca.crt
--kubelet-preferred-address-types=InternalIP,Hostname,InternalDNS,ExternalDNS,ExternalIP
"#,
    ),
    (
        "args/kube-controller-manager",
        r#"--kubeconfig=${SNAP_DATA}/credentials/controller.config
--service-account-private-key-file=${SNAP_DATA}/certs/serviceaccount.key
--root-ca-file=${SNAP_DATA}/certs/ca.crt
--cluster-signing-cert-file=${SNAP_DATA}/certs/ca.crt
--cluster-signing-key-file=${SNAP_DATA}/certs/ca.key
--use-service-account-credentials
--leader-elect-lease-duration=60s
--leader-elect-renew-deadline=30s
--profiling=false
"#,
    ),
    (
        "args/kube-proxy",
        r#"--kubeconfig=${SNAP_DATA}/credentials/proxy.config
--cluster-cidr=10.1.0.0/16
--healthz-bind-address=127.0.0.1
--profiling=false
"#,
    ),
    (
        "args/kube-scheduler",
        r#"--kubeconfig=${SNAP_DATA}/credentials/scheduler.config
--leader-elect-lease-duration=60s
--leader-elect-renew-deadline=30s
--profiling=false
"#,
    ),
    ("args/kubectl", ""),
    (
        "args/kubectl-env",
        r#"# Environment of kubectl, one NAME=value a line.
"#,
    ),
    (
        "args/kubelet",
        r#"--kubeconfig=${SNAP_DATA}/credentials/kubelet.config
--cert-dir=${SNAP_DATA}/certs
--client-ca-file=${SNAP_DATA}/certs/ca.crt
--anonymous-auth=false
--root-dir=${SNAP_COMMON}/var/lib/kubelet
--fail-swap-on=false
--eviction-hard="memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi"
--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock
--containerd=${SNAP_COMMON}/run/containerd.sock
--node-labels="microk8s.io/cluster=true,node.kubernetes.io/microk8s-controlplane=microk8s-controlplane"
--authentication-token-webhook=true
--read-only-port=0
--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_RSA_WITH_AES_256_GCM_SHA384,TLS_RSA_WITH_AES_128_GCM_SHA256
--serialize-image-pulls=false
"#,
    ),
    (
        "args/kubelite",
        r#"--scheduler-args-file=$SNAP_DATA/args/kube-scheduler
--controller-manager-args-file=$SNAP_DATA/args/kube-controller-manager
--proxy-args-file=$SNAP_DATA/args/kube-proxy
--kubelet-args-file=$SNAP_DATA/args/kubelet
--apiserver-args-file=$SNAP_DATA/args/kube-apiserver
--kubeconfig-file=$SNAP_DATA/credentials/client.config
--start-control-plane=true
"#,
    ),
    (
        "args/traefik/provider-template.yaml",
        r#"tcp:
  routers:
    Router-1:
      rule: "HostSNI(`*`)"
      service: "kube-apiserver"
      tls:
        passthrough: true
  services:
    kube-apiserver:
      loadBalancer:
        servers:
# APISERVERS
#      - address: "10.130.0.2:16443"
#      - address: "10.130.0.3:16443"
#      - address: "10.130.0.4:16443"
"#,
    ),
    (
        "args/traefik/traefik-template.yaml",
        r#"entryPoints:
  apiserver:
    address: ":16443"
providers:
  file:
    filename: ${SNAP_DATA}/args/traefik/provider.yaml
    watch: true
"#,
    ),
    (
        "certs/csr.conf.template",
        r#"[ req ]
default_bits = 2048
prompt = no
default_md = sha256
req_extensions = req_ext
distinguished_name = dn

[ dn ]
C = GB
ST = Canonical
L = Canonical
O = Canonical
OU = Canonical
CN = 127.0.0.1

[ req_ext ]
subjectAltName = @alt_names

[ alt_names ]
DNS.1 = kubernetes
DNS.2 = kubernetes.default
DNS.3 = kubernetes.default.svc
DNS.4 = kubernetes.default.svc.cluster
DNS.5 = kubernetes.default.svc.cluster.local
IP.1 = 127.0.0.1
IP.2 = 10.152.183.1
#MOREIPS

[ v3_ext ]
authorityKeyIdentifier=keyid,issuer:always
basicConstraints=CA:FALSE
keyUsage=keyEncipherment,dataEncipherment,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=@alt_names
"#,
    ),
];

/// Folders below `$SNAP_DATA` and their modes.
pub(super) const FOLDERS: &[(&str, u32)] = &[
    ("args", 0o755),
    ("args/certs.d", 0o755),
    ("args/certs.d/docker.io", 0o755),
    ("args/certs.d/localhost__32000", 0o755),
    ("args/cni-network", 0o755),
    ("args/git", 0o755),
    ("args/traefik", 0o755),
    ("certs", 0o755),
    ("credentials", 0o755),
    ("var", 0o755),
    ("var/kubernetes", 0o755),
    ("var/kubernetes/backend", 0o750),
    ("var/lock", 0o755),
    ("var/tmp", 0o755),
];

/// Lock files of a node that runs its own control plane; empty, mode 0644.
pub(super) const LOCKS: &[&str] = &[
    "var/lock/ha-cluster",
    "var/lock/installed.lock",
    "var/lock/lite.lock",
    "var/lock/no-apiserver-proxy",
    "var/lock/no-etcd",
    "var/lock/no-flanneld",
];

/// The datastore's certificate was made by this; `HOSTNAME` stands for the node's name.
pub(super) const DATASTORE_REQUEST: &str = r#"[ req ]
default_bits = 2048
prompt = no
default_md = sha256
req_extensions = req_ext
distinguished_name = dn

[ dn ]
C = GB
ST = Canonical
L = Canonical
O = Canonical
OU = Canonical
CN = k8s

[ req_ext ]
subjectAltName = @alt_names

[ alt_names ]
DNS = HOSTNAME
IP = 127.0.0.1

[ v3_ext ]
authorityKeyIdentifier=keyid,issuer:always
basicConstraints=CA:FALSE
keyUsage=keyEncipherment,dataEncipherment,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=@alt_names
"#;
