//! The password file that PostgreSQL's own programs read: `host:port:database:user:password`, a line each.

use std::path::Path;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The password of the first line that matches. A file that others may read is left alone, as those programs do.
pub(super) fn password(path: &Path, config: &Config) -> Option<String> {
    if is_open_to_others(path)? {
        tracing::warn!(path = %path.display(), "password file is not used: others may read it; its mode must be 0600 or less");
        return None;
    }
    let lines = std::fs::read_to_string(path).ok()?;
    let host = match config.get_hosts().first()? {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(_) => "localhost".to_owned(),
    };
    let port = config
        .get_ports()
        .first()
        .copied()
        .unwrap_or(5432)
        .to_string();
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    find(&lines, [&host, &port, database, user])
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt;
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(path: &Path) -> Option<bool> {
    path.exists().then_some(false)
}

fn find(lines: &str, wanted: [&str; 4]) -> Option<String> {
    lines
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line);
            let (password, keys) = fields.split_last()?;
            let matches = keys.len() == wanted.len()
                && keys
                    .iter()
                    .zip(wanted)
                    .all(|(key, wanted)| key == "*" || key == wanted);
            matches.then(|| password.clone())
        })
}

/// The fields of a line, in which a backslash makes a colon or a backslash part of a field.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let next = match c {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => chars.next(),
            c => Some(c),
        };
        if let (Some(field), Some(next)) = (fields.last_mut(), next) {
            field.push(next);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_matches_has_the_password() {
        let lines = "# a:1:b:c:comment\nother:*:*:*:no\ndb:5432:jobs:ann:a\\:b\\\\c:d\n*:*:*:ann:any\nshort:line";
        let of = |wanted| find(lines, wanted);
        assert_eq!(of(["db", "5432", "jobs", "ann"]).unwrap(), "a:b\\c:d");
        assert_eq!(of(["db", "5433", "jobs", "ann"]).unwrap(), "any");
        assert_eq!(of(["db", "5432", "jobs", "bob"]), None);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_others_may_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:secret\n").unwrap();
        let config = "postgres://ann@db/jobs".parse().unwrap();
        for (mode, found) in [(0o644, None), (0o600, Some("secret".to_owned()))] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            assert_eq!(password(file.path(), &config), found);
        }
    }
}
