//! In words, how the tasks of one process differ from those of the others.

/// How many names of tasks are listed.
const NAMES_MAX: usize = 5;

/// What `theirs` has and `ours` has not, and the other way round.
pub fn difference<N: AsRef<str>>(theirs: &[N], ours: &[N]) -> String {
    let theirs: Vec<&str> = theirs.iter().map(AsRef::as_ref).collect();
    let ours: Vec<&str> = ours.iter().map(AsRef::as_ref).collect();
    match (only(&theirs, &ours), only(&ours, &theirs)) {
        (None, None) => "the same names with other types".to_owned(),
        (Some(more), None) => format!("it also has {more}"),
        (None, Some(less)) => format!("it lacks {less}"),
        (Some(more), Some(less)) => format!("it has {more} and lacks {less}"),
    }
}

fn only(these: &[&str], those: &[&str]) -> Option<String> {
    let names: Vec<&str> = these.iter().copied().filter(|name| !those.contains(name)).collect();
    match names.len() {
        0 => None,
        1..=NAMES_MAX => Some(names.join(", ")),
        count => Some(format!("{} and {} more", names[..NAMES_MAX].join(", "), count - NAMES_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_who_has_what() {
        assert_eq!(difference(&["a", "b"], &["a", "b"]), "the same names with other types");
        assert_eq!(difference(&["a", "b"], &["a"]), "it also has b");
        assert_eq!(difference(&["a"], &["b"]), "it has a and lacks b");
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(difference(&[], &many), "it lacks a, b, c, d, e and 2 more");
    }
}
