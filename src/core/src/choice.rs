//! Choices by name: each is defined once, here in Rust, and handed to the host as it is.

use crate::error::{Error, Result};

/// One of a few named things.
pub trait Choice: Sized + Copy + PartialEq + 'static {
    /// What is chosen, as the argument that takes it is called.
    const WHAT: &'static str;
    /// All there are, the default first.
    const ALL: &'static [(&'static str, Self)];

    fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let known: Vec<String> = Self::names().iter().map(|name| format!("{name:?}")).collect();
            Error::Value(format!("{} must be one of {}, got {name:?}", Self::WHAT, known.join(", ")))
        })
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, choice)| *choice == self).map_or("", |(name, _)| name)
    }

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Objective;

    #[test]
    fn a_name_is_read_back_and_another_is_refused_with_all_there_are() {
        for name in Objective::names() {
            assert_eq!(Objective::parse(name).expect("a choice").name(), name);
        }
        let text = Objective::parse("score").expect_err("an error").to_string();
        assert!(text.contains("objective") && text.contains("\"eps\"") && text.contains("\"score\""), "{text}");
    }
}
