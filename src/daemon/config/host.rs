//! Which listed node this host is.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

use crate::daemon::config::Listed;

/// What is known of this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The name that it calls itself.
    pub name: String,
    /// Its addresses; none: ask the kernel, and the name service for the addresses behind names.
    pub addresses: Option<Vec<IpAddr>>,
}

/// What a search for this host among the listed nodes found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'n> {
    One(&'n Listed),
    Nobody,
    Several(Vec<&'n str>),
}

impl Host {
    /// The host that this process runs on.
    #[must_use]
    pub fn this() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { name, addresses: None }
    }

    /// The listed node whose name or address is this host's. Names are resolved only when nothing else tells, since
    /// a name service that does not answer would hold up every start.
    pub(super) fn find<'n>(&self, nodes: &'n [Listed]) -> Found<'n> {
        let at_sight = |node: &&Listed| {
            self.is_called(&node.name)
                || host_of(&node.address)
                    .is_some_and(|host| self.is_called(host) || host.parse().is_ok_and(|ip| self.has(ip)))
        };
        let mut matches: Vec<&Listed> = nodes.iter().filter(at_sight).collect();
        if matches.is_empty() && self.addresses.is_none() {
            matches = nodes.iter().filter(|node| self.resolves_here(&node.address)).collect();
        }
        match matches[..] {
            [] => Found::Nobody,
            [one] => Found::One(one),
            _ => Found::Several(matches.iter().map(|node| node.name.as_str()).collect()),
        }
    }

    /// Whether `name` is this host's: in full, or its first label where only one of the two has a domain.
    fn is_called(&self, name: &str) -> bool {
        let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        if self.name.is_empty() || name.parse::<IpAddr>().is_ok() {
            return false;
        }
        name.eq_ignore_ascii_case(&self.name)
            || (name.contains('.') != self.name.contains('.') && short(name) == short(&self.name))
    }

    /// Whether an address is this host's. The kernel binds a socket to its own addresses only.
    fn has(&self, ip: IpAddr) -> bool {
        match &self.addresses {
            Some(known) => known.contains(&ip),
            None => !ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok(),
        }
    }

    fn resolves_here(&self, address: &str) -> bool {
        address.to_socket_addrs().is_ok_and(|mut found| found.any(|found| self.has(found.ip())))
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(in crate::daemon) fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = (!host.is_empty() && !host.contains([':', '[', ']', '/', ' '])).then_some(host);
    let host = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok().then_some(host),
        None => plain,
    };
    port.parse::<u16>().ok().filter(|port| *port > 0).and(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;

    fn listed(nodes: &[(&str, &str)]) -> Vec<Listed> {
        nodes
            .iter()
            .map(|(name, address)| Listed {
                name: (*name).to_owned(),
                address: (*address).to_owned(),
                role: Role::Candidate,
                priority: 0,
            })
            .collect()
    }

    #[test]
    fn this_host_is_found_by_name_or_address_and_never_guessed() {
        let by_name = listed(&[("gw1", "a.internal:1"), ("gw2", "b.internal:1")]);
        let by_address = listed(&[("one", "10.0.0.1:1"), ("two", "[fd00::2]:1")]);
        let loopback = listed(&[("one", "127.0.0.1:1"), ("two", "127.0.0.1:2")]);
        let check = |name: &str, addresses: &[&str], nodes: &[Listed], expected: &[&str]| {
            let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            let host = Host { name: name.to_owned(), addresses: Some(addresses) };
            let found = match host.find(nodes) {
                Found::One(node) => vec![node.name.as_str()],
                Found::Nobody => vec![],
                Found::Several(names) => names,
            };
            assert_eq!(found, expected, "{name}");
        };
        check("gw1", &[], &by_name, &["gw1"]);
        check("GW2.example.org", &[], &by_name, &["gw2"]);
        check("b", &[], &by_name, &["gw2"]);
        check("b.elsewhere", &[], &by_name, &[]);
        check("x", &["10.0.0.1"], &by_address, &["one"]);
        check("x", &["fd00::2"], &by_address, &["two"]);
        check("x", &["127.0.0.1"], &loopback, &["one", "two"]);
        check("x", &["10.9.9.9"], &by_address, &[]);
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host) in [
            ("gw1:8730", Some("gw1")),
            ("10.0.0.1:1", Some("10.0.0.1")),
            ("[::1]:8730", Some("::1")),
            ("::1:8730", None),
            ("[gw1]:1", None),
            ("gw1", None),
            (":8730", None),
            ("gw1:", None),
            ("gw1:0", None),
            ("gw1:99999", None),
            ("http://gw1:1", None),
        ] {
            assert_eq!(host_of(address), host, "{address}");
        }
    }
}
