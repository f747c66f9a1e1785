//! Legacy iptables. A table exists in a namespace from its first use in there (Linux 5.15; before, some exist from the start),
//! and asking for its rules would make it; so a table that exists counts.

use std::io;

/// Of the calling thread: `/proc/self` is that of the process, whose main thread is in another namespace.
const NAMES: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "legacy iptables"),
    ("/proc/thread-self/net/ip6_tables_names", "legacy ip6tables"),
];

/// The tables that exist in the calling thread's namespace.
pub(super) fn tables() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, what) in NAMES {
        match std::fs::read_to_string(path) {
            Ok(names) => {
                let mut names: Vec<_> = names.lines().filter(|name| !name.is_empty()).collect();
                names.sort_unstable();
                if !names.is_empty() {
                    found.push(format!("{what}: {}", names.join(", ")));
                }
            }
            // The kernel has none, or nobody has used it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(found)
}
