//! Layers and modules together: each call adds a module for the host's tree and gives the layer that the operations use.

use std::collections::HashMap;

use super::blueprint::{Blueprint, Conv, Entry, Layer, Linear, Network, Norm, Padding};
use crate::error::Result;

impl Blueprint {
    /// What `preset` builds. It is called twice and must do the same each time.
    pub fn new(preset: impl Fn(&mut Builder) -> Network) -> Result<Self> {
        // First pass: which modules there are. Second pass: the same with each layer's place in the state dict known.
        let mut draft = Builder::default();
        preset(&mut draft);
        let (mut builder, shapes) = draft.placed();
        let Network { time, ops, in_channels } = preset(&mut builder);
        Ok(Self { time, ops, in_channels, entries: builder.into_entries(), shapes })
    }
}

#[derive(Default)]
pub struct Builder {
    entries: Vec<Entry>,
    /// Where each module's parameters begin in the state dict; empty in the first pass.
    places: HashMap<String, usize>,
}

impl Builder {
    /// For the second pass: an empty builder that knows the places of these modules, and the shapes of all parameters.
    fn placed(self) -> (Self, Vec<Vec<i64>>) {
        let (places, shapes) = state_dict_layout(&self.entries);
        (Self { entries: Vec::new(), places }, shapes)
    }

    fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Adds a module; gives the place of its parameters.
    pub fn add(&mut self, path: &str, layer: Layer) -> usize {
        self.entries.push(Entry { path: path.to_owned(), layer });
        self.places.get(path).copied().unwrap_or_default()
    }

    pub fn container(&mut self, path: &str, class: &'static str) {
        self.add(path, Layer::Container(class));
    }

    /// With zeros around that keep the size at stride 1.
    pub fn conv(&mut self, path: &str, cin: i64, cout: i64, kernel: i64, stride: i64) -> Conv {
        let padding = kernel / 2;
        let param = self.add(path, Layer::Conv2d { cin, cout, kernel, stride, padding });
        Conv { param, cin, cout, kernel, stride, padding: Padding::even(padding) }
    }

    /// A convolution whose module pads by nothing: the zeros of `padding` are added before it.
    pub fn padded_conv(
        &mut self,
        path: &str,
        [cin, cout]: [i64; 2],
        kernel: i64,
        stride: i64,
        padding: Padding,
    ) -> Conv {
        let param = self.add(path, Layer::Conv2d { cin, cout, kernel, stride, padding: 0 });
        Conv { param, cin, cout, kernel, stride, padding }
    }

    pub fn linear(&mut self, path: &str, cin: i64, cout: i64) -> Linear {
        Linear { param: self.add(path, Layer::Linear { cin, cout }), cout }
    }

    pub fn norm(&mut self, path: &str, channels: i64, groups: i64, eps: f64) -> Norm {
        let param = self.add(path, Layer::GroupNorm { groups, channels, eps });
        Norm { param, groups, channels, eps }
    }
}

/// The state dict lists modules depth first, children in the order of registration.
fn state_dict_layout(entries: &[Entry]) -> (HashMap<String, usize>, Vec<Vec<i64>>) {
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    for (id, entry) in entries.iter().enumerate() {
        let parent = entry.path.rsplit_once('.').map_or("", |(parent, _)| parent);
        children.entry(parent).or_default().push(id);
    }
    let (mut places, mut shapes) = (HashMap::new(), Vec::new());
    let mut pending: Vec<usize> = children.get("").into_iter().flatten().rev().copied().collect();
    while let Some(id) = pending.pop() {
        let entry = &entries[id];
        places.insert(entry.path.clone(), shapes.len());
        shapes.extend(entry.layer.parameter_shapes());
        pending.extend(children.get(entry.path.as_str()).into_iter().flatten().rev());
    }
    (places, shapes)
}
