//! The names of this host: by which ranks tell it from others, and by which others reach it.

/// The name that Slurm gives to this node where there is one, else that of the system.
///
/// Ranks with the same name share a machine. Several Slurm nodes may be one machine with one name of its own, as in
/// tests; and where a node's name in Slurm differs from its host name, Slurm's is the one that its users know.
pub fn host_name() -> String {
    named(std::env::var("SLURMD_NODENAME").ok())
}

/// The name that the system gives to this machine, by which others may reach it; `localhost` if it has none.
pub fn system_name() -> String {
    match nix::unistd::gethostname() {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => "localhost".to_owned(),
    }
}

fn named(by_slurm: Option<String>) -> String {
    by_slurm.filter(|name| !name.is_empty()).unwrap_or_else(system_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_name_of_the_node_goes_before_that_of_the_system() {
        assert_eq!(named(Some("n3".to_owned())), "n3");
        assert_eq!(named(Some(String::new())), named(None));
        assert!(!named(None).is_empty());
    }
}
