//! How images look to a person.

use std::fmt::Write;

use workrs_core::spec::format_size;
use workrs_engine::image::source::Reference;

use super::{clean, count, table, time};
use crate::api::{ImageView, PulledView, RemovedView};

/// Digits of a digest that tell images apart.
const SHORT: usize = "sha256:".len() + 12;

/// A list of images.
pub fn images(images: &[ImageView]) -> String {
    let mut rows = vec![["NAME", "DIGEST", "SIZE", "LAYERS", "JOBS", "ADDED"].map(str::to_owned).to_vec()];
    for image in images {
        let mut names: Vec<String> = image.names.iter().map(|name| familiar(name)).collect();
        if names.is_empty() {
            names.push("-".to_owned());
        }
        rows.extend(names.into_iter().map(|name| {
            vec![
                name,
                short(&image.digest).to_owned(),
                format_size(image.bytes),
                image.layers.to_string(),
                image.jobs.len().to_string(),
                time(image.added_at),
            ]
        }));
    }
    table(&rows)
}

/// What a pull came to.
pub fn pulled(pulled: &PulledView) -> String {
    let what = if pulled.is_new { "the group has now" } else { "the group has already" };
    format!("{what} {}", line(&pulled.image))
}

/// What an import brought.
pub fn imported(images: &[ImageView]) -> String {
    images.iter().map(|image| format!("the group has now {}", line(image))).collect()
}

/// What became of an image whose names were taken away.
pub fn removed_image(view: &RemovedView) -> String {
    let mut text = String::new();
    for name in &view.removed {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "the name {} is gone", familiar(name));
    }
    let image = short(&view.digest);
    let left = view.names.iter().map(|name| familiar(name)).collect::<Vec<_>>().join(", ");
    let _ = match (view.names.is_empty(), view.jobs.len() as u64) {
        (false, _) => writeln!(text, "the image {image} stays, as {left}"),
        (true, 0) => writeln!(text, "the image {image} goes within minutes"),
        (true, 1) => writeln!(text, "the image {image} goes once the job that needs it has ended"),
        (true, jobs) => writeln!(text, "the image {image} goes once the {jobs} jobs that need it have ended"),
    };
    text
}

fn line(image: &ImageView) -> String {
    let names = image.names.iter().map(|name| familiar(name)).collect::<Vec<_>>().join(", ");
    format!("{} as {names} ({}, {})\n", short(&image.digest), format_size(image.bytes), count(image.layers, "layer"))
}

/// A name as people write it.
pub fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| clean(name), |reference| reference.familiar())
}

/// As much of a digest as is needed.
pub fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], jobs: &[&str]) -> ImageView {
        ImageView {
            digest: format!("sha256:{}", "ab".repeat(32)),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            arch: "x86_64".into(),
            bytes: 44 << 20,
            layers: 4,
            added_at: 1_795_000_000_000,
            added_by: "local".into(),
            jobs: jobs.iter().map(|job| (*job).to_owned()).collect(),
        }
    }

    #[test]
    fn images_are_shown_by_their_names() {
        let all = [
            image(&["docker.io/library/python:3.13-slim", "registry.example.org/team/base:1"], &["job-1"]),
            image(&[], &["job-2", "job-3"]),
        ];
        insta::assert_snapshot!("images", images(&all));
        insta::assert_snapshot!("imported", imported(&all[..1]));
        let told = |is_new| pulled(&PulledView { image: all[0].clone(), is_new });
        insta::assert_snapshot!("pulled", told(true) + &told(false));
    }

    #[test]
    fn removals_tell_what_stays() {
        let view = |names: &[&str], jobs: &[&str]| {
            let ImageView { digest, names, jobs, .. } = image(names, jobs);
            removed_image(&RemovedView { digest, removed: vec!["docker.io/library/a:1".into()], names, jobs })
        };
        let texts = [
            view(&["docker.io/library/b:1"], &["job-1"]),
            view(&[], &["job-1"]),
            view(&[], &["job-1", "job-2"]),
            view(&[], &[]),
        ];
        insta::assert_snapshot!("removed", texts.join("\n"));
    }
}
