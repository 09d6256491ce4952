//! The configuration of the API server proxy of a worker, in the form of traefik's, which MicroK8s
//! used before: where the proxy listens, and the API servers that it leads to (recordings
//! `fresh-node.json`, `join-worker-ok`).

use serde_json::{Value, json};

const SERVERS: &str = "/tcp/services/kube-apiserver/loadBalancer/servers";

/// Where the proxy listens, as in `:16443`.
pub(crate) fn listen_address(configuration: &str) -> Option<String> {
    text_at(configuration, "/entryPoints/apiserver/address")
}

/// The file with the list of API servers. Its path may hold variables, as those in arguments.
pub(crate) fn provider_file(configuration: &str) -> Option<String> {
    text_at(configuration, "/providers/file/filename")
}

fn text_at(configuration: &str, pointer: &str) -> Option<String> {
    let value = read(configuration).ok()?;
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

/// The API servers in a list of them, each as `host:port`.
pub(crate) fn servers(provider: &str) -> Result<Vec<String>, String> {
    let value = read(provider)?;
    let servers = value.pointer(SERVERS).and_then(Value::as_array);
    Ok(servers
        .into_iter()
        .flatten()
        .filter_map(|server| server["address"].as_str())
        .map(|address| address.trim_start_matches("https://").to_owned())
        .collect())
}

/// The same file with these API servers, with sorted keys as MicroK8s's YAML library writes them.
pub(crate) fn with_servers(provider: &str, servers: &[String]) -> Result<String, String> {
    let mut value = read(provider)?;
    let servers = servers.iter().map(|address| json!({ "address": address }));
    let balancer = SERVERS.trim_end_matches("/servers");
    value
        .pointer_mut(balancer)
        .and_then(Value::as_object_mut)
        .ok_or("it has no load balancer for kube-apiserver")?
        .insert("servers".to_owned(), servers.collect());
    sort_keys(&mut value);
    serde_saphyr::to_string(&value).map_err(|error| error.to_string())
}

fn read(provider: &str) -> Result<Value, String> {
    // The lines behind the first one show the text.
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    serde_saphyr::from_str(provider).map_err(|error| first_line(&error.to_string()))
}

fn sort_keys(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.sort_keys();
            fields.values_mut().for_each(sort_keys);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_keys),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "tcp:\n  routers:\n    Router-1:\n      rule: \"HostSNI(`*`)\"\n      service: \"kube-apiserver\"\n      tls:\n        passthrough: true\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n# APISERVERS\n#      - address: \"10.130.0.2:16443\"\n";

    #[test]
    fn the_list_of_api_servers_is_written_as_recorded() {
        let recorded = "tcp:\n  routers:\n    Router-1:\n      rule: HostSNI(`*`)\n      service: kube-apiserver\n      tls:\n        passthrough: true\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n        - address: 10.99.0.11:16443\n";
        assert_eq!(
            with_servers(TEMPLATE, &["10.99.0.11:16443".into()]).unwrap(),
            recorded
        );
        let listed = ["[fd00::1]:16443", "10.99.0.12:16443"].map(str::to_owned);
        let written = with_servers(recorded, &listed).unwrap();
        assert_eq!(servers(&written).unwrap(), listed);
        assert_eq!(servers(TEMPLATE).unwrap(), Vec::<String>::new());
        let by_url = recorded.replace("10.99", "https://10.99");
        assert_eq!(servers(&by_url).unwrap(), ["10.99.0.11:16443"]);
        assert!(with_servers("tcp: {}", &[]).is_err());
        assert!(servers("tcp: [").is_err());
    }

    #[test]
    fn the_configuration_says_where_the_proxy_listens_and_where_its_list_is() {
        let configuration = "entryPoints:\n  apiserver:\n    address: \":16443\"\nproviders:\n  file:\n    filename: ${SNAP_DATA}/args/traefik/provider.yaml\n    watch: true\n";
        assert_eq!(listen_address(configuration).as_deref(), Some(":16443"));
        let file = provider_file(configuration);
        assert_eq!(
            file.as_deref(),
            Some("${SNAP_DATA}/args/traefik/provider.yaml")
        );
        assert_eq!(listen_address("nope"), None);
        assert_eq!(provider_file("providers: 1"), None);
    }
}
