//! Where a listener can be reached: the interface it binds and the host name it publishes.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::topology;

/// Who is to reach a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Processes of this machine: the loopback interface.
    Machine,
    /// Anyone who knows the way: all interfaces, under this host name or address.
    Network {
        /// What is published.
        host: String,
    },
}

impl Reach {
    /// All interfaces, under the name by which other machines most likely know this one: the host name if
    /// it resolves to an address that is not loopback, else the address of the first interface that is up.
    pub fn network() -> Self {
        let hostname = topology::system_name();
        let host = match (resolves_beyond_loopback(&hostname), first_interface()) {
            (true, _) => hostname,
            (false, Some(address)) => address.to_string(),
            (false, None) => Ipv4Addr::LOCALHOST.to_string(),
        };
        Self::Network { host }
    }

    /// All interfaces, published as `host`.
    pub fn network_as(host: impl Into<String>) -> Self {
        Self::Network { host: host.into() }
    }

    pub(super) fn bind_address(&self) -> IpAddr {
        match self {
            Self::Machine => Ipv4Addr::LOCALHOST.into(),
            Self::Network { .. } => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    pub(super) fn published_address(&self, port: u16) -> String {
        match self {
            Self::Machine => format!("{}:{port}", Ipv4Addr::LOCALHOST),
            Self::Network { host } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Network { host } => format!("{host}:{port}"),
        }
    }
}

fn resolves_beyond_loopback(hostname: &str) -> bool {
    (hostname, 0).to_socket_addrs().is_ok_and(|mut found| found.any(|address| !address.ip().is_loopback()))
}

fn first_interface() -> Option<Ipv4Addr> {
    let up = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    getifaddrs()
        .ok()?
        .filter(|interface| up(interface.flags))
        .find_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_for_this_machine_publishes_loopback() {
        assert_eq!(Reach::Machine.published_address(80), "127.0.0.1:80");
        assert!(Reach::Machine.bind_address().is_loopback());
    }

    #[test]
    fn an_ipv6_address_is_published_in_brackets() {
        assert_eq!(Reach::network_as("fd00::1").published_address(80), "[fd00::1]:80");
        assert_eq!(Reach::network_as("n1").published_address(80), "n1:80");
    }

    #[test]
    fn a_listener_for_the_network_always_publishes_some_host() {
        assert!(matches!(Reach::network(), Reach::Network { host } if !host.is_empty()));
    }
}
