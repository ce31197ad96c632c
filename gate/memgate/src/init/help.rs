//! What a program's own help says about where it listens: the texts of Go's package flag, pflag, kingpin and urfave/cli.

use super::hints::port_of;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Address,
    Port,
}

/// An option that says where the program listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListenOption {
    /// With its dashes.
    spelling: String,
    takes: Takes,
    /// The port by default, if it is known.
    pub(super) port: Option<u16>,
}

impl ListenOption {
    /// The arguments that have the program listen at this port of 127.0.0.1, or at this port if it takes no address.
    pub(super) fn arguments(&self, port: u16) -> Vec<String> {
        let value = match self.takes {
            Takes::Address => format!("127.0.0.1:{port}"),
            Takes::Port => port.to_string(),
        };
        vec![self.spelling.clone(), value]
    }
}

/// Names of options, the most likely first. In the text `_` and `.` count as `-`.
const NAMES: [&str; 24] = [
    "listen",
    "listen-addr",
    "listen-address",
    "web-listen-address",
    "http-listen-addr",
    "http-listen-address",
    "http-listen",
    "http-addr",
    "http-address",
    "http-bind",
    "addr",
    "address",
    "bind",
    "bind-addr",
    "bind-address",
    "server-addr",
    "server-address",
    "http",
    "port",
    "http-port",
    "listen-port",
    "server-port",
    "web-port",
    "api-port",
];

/// Commands that start a server.
const COMMANDS: [&str; 3] = ["serve", "server", "web"];

/// The option that says where the program listens, by its help.
pub(super) fn listen_option(help: &str) -> Option<ListenOption> {
    let lines: Vec<_> = help.lines().collect();
    let options = lines.iter().enumerate().filter_map(|(at, line)| option(line, &lines[at + 1..]));
    options.min_by_key(|(rank, _)| *rank).map(|(_, option)| option)
}

/// The command that starts a server, by the help: a word at the start of an indented line, with its description.
pub(super) fn command(help: &str) -> Option<&'static str> {
    let words = |line: &str| line.starts_with([' ', '\t']).then(|| line.split_whitespace().next().map(str::to_owned));
    let first: Vec<_> = help.lines().filter_map(words).flatten().collect();
    COMMANDS.into_iter().find(|command| first.iter().any(|word| word.trim_end_matches(',') == *command))
}

/// The option of a line, with its rank. `next` are the lines below it.
fn option(line: &str, next: &[&str]) -> Option<(usize, ListenOption)> {
    let text = line.trim_start();
    if !text.starts_with('-') {
        return None;
    }
    let words: Vec<_> = text.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
    let spelled = words.iter().find(|word| word.starts_with("--")).or(words.first())?;
    let (spelling, after) = spelled.split_once('=').map_or((*spelled, None), |(name, value)| (name, Some(value)));
    let name = spelling.trim_start_matches('-').to_ascii_lowercase().replace(['_', '.'], "-");
    let rank = NAMES.iter().position(|known| *known == name)?;
    let below = next.iter().take_while(|line| {
        line.starts_with([' ', '\t']) && !line.trim_start().starts_with('-') && !line.trim().is_empty()
    });
    let described = [text].into_iter().chain(below.copied()).collect::<Vec<_>>().join(" ");
    let default = after.filter(|value| !value.is_empty()).map(str::to_owned).or_else(|| default(&described));
    let default = default.as_deref().map(|value| value.trim_matches(['"', '\'']));
    let kind = words.get(words.iter().position(|word| word == spelled)? + 1).copied().unwrap_or_default();
    let is_number = ["int", "uint", "uint16", "int32"].contains(&kind);
    let (takes, port) = match default {
        Some(value) if port_of(value).is_some() => (Takes::Address, port_of(value)),
        Some(value) if value.parse::<u16>().is_ok() => (Takes::Port, value.parse().ok()),
        // Any port.
        Some(value) if value.ends_with(":0") => (Takes::Address, None),
        // A host without a port, or a place of another kind.
        Some(value) if !value.is_empty() && value != "0" && !name.ends_with("port") => return None,
        _ if is_number || name.ends_with("port") => (Takes::Port, None),
        _ => (Takes::Address, None),
    };
    Some((rank, ListenOption { spelling: spelling.to_owned(), takes, port: port.filter(|port| *port != 0) }))
}

/// The default that a description names: `(default "x")`, `(default x)`, `(default: x)`.
fn default(described: &str) -> Option<String> {
    let at = described.find("(default").or_else(|| described.find("[default"))?;
    let rest = described[at + "(default".len()..].trim_start_matches([':', '=']).trim_start();
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        None => rest.split_once([')', ']'])?.0,
    };
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(help: &str) -> Option<String> {
        listen_option(help).map(|option| option.arguments(8081).join(" "))
    }

    #[test]
    fn each_kind_of_help_is_read() {
        let flag =
            "Usage of uaa:\n  -leak int\n    \tbytes\n  -listen string\n    \taddress (default \"127.0.0.1:8080\")\n";
        assert_eq!(arguments(flag).unwrap(), "-listen 127.0.0.1:8081");
        assert_eq!(listen_option(flag).unwrap().port, Some(8080));
        let pflag = "Flags:\n  -h, --help          help\n  -p, --port int      port to serve (default 3000)\n";
        assert_eq!(arguments(pflag).unwrap(), "--port 8081");
        let kingpin = "Flags:\n      --web.listen-address=:9100 ...  \n                                 Addresses.\n";
        assert_eq!(arguments(kingpin).unwrap(), "--web.listen-address 127.0.0.1:8081");
        let urfave = "OPTIONS:\n   --port value, -P value  port (default: 8000) [$PORT]\n   --help, -h  show help\n";
        assert_eq!(arguments(urfave).unwrap(), "--port 8081");
        assert_eq!(listen_option(urfave).unwrap().port, Some(8000));
    }

    #[test]
    fn the_likeliest_option_counts_and_a_host_is_none() {
        let help = "  -port int\n    \tport (default 80)\n  -addr string\n    \taddress (default \":80\")\n";
        assert_eq!(arguments(help).unwrap(), "-addr 127.0.0.1:8081");
        let host = "  -address string\n    \thost (default \"localhost\")\n  -port uint\n    \tport\n";
        assert_eq!(arguments(host).unwrap(), "-port 8081");
        assert_eq!(
            arguments("  -addr string\n    \twhere (default \"127.0.0.1:0\")\n").unwrap(),
            "-addr 127.0.0.1:8081"
        );
        assert_eq!(arguments("  -verbose\n    \tsay more (default false)\n"), None);
        assert_eq!(arguments("listening on :8080\n"), None);
        assert_eq!(arguments("  -addr string\n    \taddress\n").unwrap(), "-addr 127.0.0.1:8081");
    }

    #[test]
    fn a_command_that_serves_is_found() {
        let help = "Available Commands:\n  completion  Generate a script\n  serve       Start the server\n";
        assert_eq!(command(help), Some("serve"));
        assert_eq!(command("   server, s  starts it\n"), Some("server"));
        assert_eq!(command("serve the files\n  they are here\n"), None);
    }

    proptest! {
        #[test]
        fn any_help_is_read(help in "((  -|--|)(listen|addr|port)?[ =:\"()a-z0-9\t]{0,20}(\\(default ?\"?)?[\"):0-9é]{0,6}\n?){0,8}") {
            let _ = (listen_option(&help), command(&help));
        }
    }
}
