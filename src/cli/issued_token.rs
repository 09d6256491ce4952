//! A token that was issued, as `add-node` prints it: byte for byte as MicroK8s does, because scripts
//! cut it by line number (recordings `add-node-*`).

use clap::ValueEnum;
use serde::Serialize;

use crate::base::time_text;
use crate::cli::output;
use crate::model::join_url::PrintedUrl;
use crate::model::node::NodeName;
use crate::model::token_terms::RoleLimit;
use crate::wire::local_v1::IssuedToken;

/// How a token is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Explained, for people
    Pretty,
    /// A join command for each address
    Short,
    /// The token alone
    Token,
    /// The token and the fingerprint
    TokenCheck,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The token in JSON and YAML: MicroK8s's fields, and ours where they are asked for.
#[derive(Serialize)]
struct Printed {
    token: String,
    urls: Vec<String>,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What is known of the token itself.
#[derive(Serialize)]
struct Details {
    id: String,
    role: RoleLimit,
    expires: Option<String>,
    uses: Option<u32>,
    node: Option<NodeName>,
}

impl Details {
    fn of(issued: &IssuedToken) -> Self {
        let granted = issued.granted.clone();
        Self {
            id: issued.token.digest().to_string(),
            role: granted.role,
            expires: granted.until.map(time_text::moment),
            uses: granted.uses,
            node: granted.node,
        }
    }
}

/// The text of a token; JSON and YAML have more than MicroK8s's two fields where `has_details`.
pub(crate) fn render(issued: &IssuedToken, format: Format, has_details: bool) -> String {
    let url = |address, fingerprint| {
        PrintedUrl {
            address,
            port: issued.port,
            token: &issued.token,
            fingerprint,
        }
        .to_string()
    };
    let own = issued.addresses.iter();
    let mut urls: Vec<String> = own.map(|own| url(*own, &issued.fingerprint)).collect();
    let command = |url: &String| format!("microk8s join {url}\n");
    let mut first = url(issued.default_address, &issued.fingerprint);
    let mut which = "If the node you are adding is not reachable through the default interface you can use one of the following:";
    if let Some(others) = &issued.others {
        let others = others.iter();
        urls = std::iter::once(first)
            .chain(others.map(|(address, fingerprint)| url(*address, fingerprint)))
            .collect();
        first = urls.join(" ");
        which = "Each of the following contacts one control plane node:";
    }
    let all = || urls.iter().map(command).collect::<String>();
    let token = issued.token.expose();
    let token_check = format!("{token}/{}", issued.fingerprint);
    match format {
        Format::Pretty => {
            let worker = if issued.takes_workers {
                format!(
                    "Use the '--worker' flag to join a node as a worker not running the control plane, eg:\nmicrok8s join {first} --worker\n\n"
                )
            } else {
                String::new()
            };
            format!(
                "From the node you wish to join to this cluster, run the following:\n{}\n{worker}{which}\n{}",
                command(&first),
                all()
            )
        }
        Format::Short => all(),
        Format::Token => format!("{token}\n"),
        Format::TokenCheck => format!("{token_check}\n"),
        Format::Json => {
            let printed = Printed {
                token: token_check,
                urls,
                details: has_details.then(|| Details::of(issued)),
            };
            output::structured(&printed, output::Format::Json)
        }
        Format::Yaml => {
            let urls: String = urls
                .iter()
                .map(|url| format!("- {}\n", yaml_scalar(url)))
                .collect();
            let details = has_details.then(|| Details::of(issued));
            let details = details.map_or_else(String::new, |details| {
                output::structured(&details, output::Format::Yaml)
            });
            let token = yaml_scalar(&token_check);
            format!("token: {token}\nurls:\n{urls}{details}\n")
        }
    }
}

/// A text as YAML: one that begins with a bracket, as IPv6 does, would be a list, and one of
/// digits, a slash aside, stays a text anyway.
fn yaml_scalar(text: &str) -> String {
    if text.starts_with('[') || text.starts_with(['-', '.']) {
        format!("'{text}'")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::Token;
    use crate::model::token_record::GrantedTerms;

    fn issued(addresses: &[&str]) -> IssuedToken {
        let addresses: Vec<std::net::IpAddr> = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        IssuedToken {
            token: Token::preset("0123456789abcdef0123456789abcdef").unwrap(),
            fingerprint: "e3b0c44298fc".into(),
            port: 25000,
            default_address: addresses[0],
            addresses,
            others: None,
            takes_workers: true,
            granted: GrantedTerms {
                uses: Some(1),
                until: None,
                role: RoleLimit::Worker,
                node: None,
            },
            added_again: None,
            notices: Vec::new(),
        }
    }

    #[test]
    fn ipv6_is_printed_so_that_join_and_yaml_understand_it() {
        let text = render(&issued(&["fd00::1"]), Format::Yaml, false);
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            value["urls"][0],
            "[fd00::1]:25000/0123456789abcdef0123456789abcdef/e3b0c44298fc"
        );
        assert!(
            render(&issued(&["fd00::1"]), Format::Short, false)
                .starts_with("microk8s join [fd00::1]:25000/")
        );
    }

    #[test]
    fn json_and_yaml_have_the_same_details_and_only_where_they_are_asked_for() {
        let issued = issued(&["10.99.0.11"]);
        let read = |format, has_details| -> serde_json::Value {
            serde_saphyr::from_str(&render(&issued, format, has_details)).unwrap()
        };
        for has_details in [false, true] {
            let json = read(Format::Json, has_details);
            assert_eq!(json, read(Format::Yaml, has_details));
            assert_eq!(json.get("id").is_some(), has_details);
            assert_eq!(
                json.as_object().unwrap().len(),
                if has_details { 7 } else { 2 }
            );
        }
        assert_eq!(read(Format::Json, true)["role"], "worker");
    }
}
