# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_microk8s_global_optspecs
    string join \n h/help V/version
end

function __fish_microk8s_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_microk8s_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_microk8s_using_subcommand
    set -l cmd (__fish_microk8s_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c microk8s -n "__fish_microk8s_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_needs_command" -s V -l version -d 'Print version'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "add-node" -d 'Produce a connection string for a node to join the cluster'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "join" -d 'Join the node to a cluster'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "leave" -d 'Leave the cluster that this node is in'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "remove-node" -d 'Remove a node from the cluster'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "nodes" -d 'List the nodes of the cluster, as this node knows them'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "token" -d 'List, show, revoke and remove the tokens of this node'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "agent" -d 'Run the agent of this node'
complete -c microk8s -n "__fish_microk8s_needs_command" -f -a "dev-cluster" -d 'Form a cluster on this machine, to try things out'
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -s l -l token-ttl -d 'How long the token is valid for any number of nodes, as in 90s, 15m, 1h or 2d; a bare number is seconds; -1 makes a token for one node [default: -1]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -s t -l token -d 'The token to add, of 32 characters or more; without it a new one is made' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l format -d 'How to print the token' -r -f -a "pretty\t'Explained, for people'
short\t'A join command for each address'
token\t'The token alone'
token-check\t'The token and the fingerprint'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l uses -d 'How many nodes may join with the token [default: 1, or any number with --token-ttl]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l role -d 'The role in which nodes may join with the token [default: any]' -r -f -a "any\t'As anything'
worker\t'As a worker only'
control-plane\t'As a control plane node only'"
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l node -d 'The host name of the only node that may use the token [default: any node]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l description -d 'A line to remember the token by, which `microk8s token list` shows' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l token-file -d 'Read the token to add from FILE (`-`: standard input), so that it is not in the process list' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l full-fingerprint -d 'Print all 64 digits of the fingerprint instead of the first 12'
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -l details -d 'With --format json or yaml, print also the id, role, expires, uses and node of the token'
complete -c microk8s -n "__fish_microk8s_using_subcommand add-node" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l timeout -d 'How long the join may take, as in 90s or 3m, a day at most; a bare number is seconds' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l token-file -d 'Read the token from FILE (`-`: standard input); CONNECTION is then address:port[/fingerprint], or left out where FILE holds a whole connection string' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l node-label -d 'Label the node; may be given several times' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l node-ip -d 'The address of this machine under which the node registers itself with Kubernetes' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l format -d 'How the progress of the join is printed' -r -f -a "text\t'Lines for people, as MicroK8s prints them'
json\t'A JSON object a line for each event'"
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l worker -d 'Join as a worker only node'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l controlplane -d 'Join running the control plane on HA clusters (the default)'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l skip-verify -d 'Skip the certificate verification of the node we are joining to'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l disable-low-memory-guard -d 'Join as a control plane node even if this node has little memory'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l dry-run -d 'Check whether the join would work, say how to fix what is in the way, and change nothing'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -l no-progress -d 'Show no spinner on a terminal'
complete -c microk8s -n "__fish_microk8s_using_subcommand join" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand leave" -l dry-run -d 'List what would be done, one step a line, and change nothing'
complete -c microk8s -n "__fish_microk8s_using_subcommand leave" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand remove-node" -l force -d 'Remove a node that is gone, even if only Kubernetes, the datastore or this node still lists it'
complete -c microk8s -n "__fish_microk8s_using_subcommand remove-node" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand nodes" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand nodes" -l self -d 'Say whether this node is in a cluster, in which one, and as what'
complete -c microk8s -n "__fish_microk8s_using_subcommand nodes" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and not __fish_seen_subcommand_from list show revoke prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and not __fish_seen_subcommand_from list show revoke prune" -f -a "list" -d 'List the tokens of this node'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and not __fish_seen_subcommand_from list show revoke prune" -f -a "show" -d 'Show everything that is known about a token'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and not __fish_seen_subcommand_from list show revoke prune" -f -a "revoke" -d 'Revoke tokens, so that no node can join with them any more'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and not __fish_seen_subcommand_from list show revoke prune" -f -a "prune" -d 'Remove the tokens that are used up, expired or revoked'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from list" -l format -d 'How to print the list' -r -f -a "text\t'For people'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from show" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from revoke" -l format -d 'How to print what was done' -r -f -a "text\t'For people'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from revoke" -l all -d 'Revoke every token of this node'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from prune" -l unused-for -d 'Remove also the tokens that no node has joined with for this long, as in 12h or 7d' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from prune" -l format -d 'How to print what was done' -r -f -a "text\t'For people'
json\t'JSON'
yaml\t'YAML'"
complete -c microk8s -n "__fish_microk8s_using_subcommand token; and __fish_seen_subcommand_from prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l bind -d 'The address and port to listen on for other nodes [default: as `args/cluster-agent` of the node says, else port 25000 of every address]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l keyfile -d 'The key of the certificate to serve [default: certs/server.key of the node]' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l certfile -d 'The certificate to serve [default: certs/server.crt of the node]' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l timeout -d 'How long a request may take, as in 90s or 4m; a bare number is seconds [default: 240]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l enable-metrics -d 'Serve metrics for Prometheus at /metrics [default: false]' -r -f -a "true\t''
false\t''"
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l min-tls-version -d 'The oldest version of TLS to accept [default: tls12]' -r -f -a "tls12\t'TLS 1.2 and 1.3'
tls13\t'TLS 1.3 only'"
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l retry-window -d 'How long a node that used a token may use it again, because its join may have failed without a report, as in 15m; a bare number is seconds, 0 is never, a year at most [default: 900]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l log-format -d 'The form of the log on standard error [default: text]' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l max-connections -d 'How many connections of other nodes are kept open, a quarter of them for one address [default: 4096, or fewer where the limit on open files is lower]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l callback-from -d 'From which addresses requests with the cluster\'s callback token are accepted [default: cluster]' -r -f -a "cluster\t'The node itself and control plane nodes'
any\t'All, as in MicroK8s'"
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l capi-dir -d 'The folder of Cluster API, with its token in `etc/token` [default: /capi]' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l node-dir -d 'The directory of a standalone node, which is made if it does not exist [default: $MICROK8S_NODE_DIR, else ~/.local/share/microk8s/current]' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l socket -d 'The socket of the local API [default: $MICROK8S_SOCKET, else that of the node]' -r -F
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l node-name -d 'The name of a standalone node [default: the host name]' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l parent -d 'Ends when this process, which started the agent, ends' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -l datastore-demo -d 'Run a demonstration datastore beside a standalone node; needs Debian\'s package go-dqlite'
complete -c microk8s -n "__fish_microk8s_using_subcommand agent" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microk8s -n "__fish_microk8s_using_subcommand dev-cluster" -l control-planes -d 'How many control plane nodes; more than one needs Debian\'s package go-dqlite' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand dev-cluster" -l workers -d 'How many workers' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand dev-cluster" -l port -d 'The port of the agents, on loopback addresses on which it is free; 25000 unless given, or the next one that is free' -r
complete -c microk8s -n "__fish_microk8s_using_subcommand dev-cluster" -l once -d 'End when the cluster has formed'
complete -c microk8s -n "__fish_microk8s_using_subcommand dev-cluster" -s h -l help -d 'Print help (see more with \'--help\')'
