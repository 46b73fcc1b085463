//! The names of the hosts in one piece of text: a handle of 4 bytes a host and no allocation each.

/// Names one after the other, each ended by [`END`].
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    text: String,
    /// Bytes of names that are no longer used.
    waste: usize,
}

/// Ends a name. Where a name has one itself, that and the rest of it are not kept.
const END: char = '\0';

impl Names {
    /// Keeps a name; gives its handle.
    pub(super) fn add(&mut self, name: &str) -> u32 {
        // Handles reach 4 GiB of names, more than the hosts of any cloud have; a name beyond has the last handle.
        let at = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        self.text.push_str(name.split(END).next().unwrap_or_default());
        self.text.push(END);
        at
    }

    pub(super) fn get(&self, at: u32) -> &str {
        let rest = self.text.get(at as usize..).unwrap_or_default();
        rest.split(END).next().unwrap_or_default()
    }

    pub(super) fn forget(&mut self, at: u32) {
        self.waste += self.get(at).len() + 1;
    }

    pub(super) fn replace(&mut self, at: u32, name: &str) -> u32 {
        self.forget(at);
        self.add(name)
    }

    /// Whether most of the text is waste, so that it is worth writing anew.
    pub(super) fn is_wasteful(&self) -> bool {
        self.waste > 4096 && self.waste > self.text.len() / 2
    }

    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_forgotten_names_are_noticed() {
        let mut names = Names::default();
        let (a, empty, b) = (names.add("node-a"), names.add(""), names.add("knötchen"));
        assert_eq!([names.get(a), names.get(empty), names.get(b)], ["node-a", "", "knötchen"]);
        let long = "x".repeat(100);
        let mut handle = names.add(&long);
        assert!(!names.is_wasteful());
        (0..99).for_each(|_| handle = names.replace(handle, &long));
        assert!(names.is_wasteful());
        assert_eq!(names.get(handle), long);
    }
}
