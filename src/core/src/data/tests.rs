//! The parts together, on files in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Error, Result};

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("diffusion-core-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// An 8 x 8 grey image of one level.
    fn png(&self, name: &str, level: u8) -> PathBuf {
        self.file(name, |path| image::GrayImage::from_pixel(8, 8, image::Luma([level])).save(path).unwrap())
    }

    fn file(&self, name: &str, write: impl FnOnce(&Path)) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path);
        path
    }

    fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let relative = |file: PathBuf| file.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned();
        Ok(folder::list(&self.0.join(pattern))?.into_iter().map(relative).collect())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options() -> LoadOptions {
    LoadOptions { size: Size::square(2), threads: 2, ..LoadOptions::default() }
}

fn read(files: &[PathBuf], options: &LoadOptions, cache: Option<&Path>) -> Result<ImageSet<u8>> {
    load(files.to_vec(), options, cache, &mut |_| Ok(()))
}

#[test]
fn listing_sorts_as_strings_and_looks_one_level_down() {
    let folder = Folder::new("listing");
    for name in ["b/1.png", "a-b/1.PNG", "a/10.png", "a/2.png", "c.png", ".hidden.png", "a/deep/1.png"] {
        folder.png(&name.replace("PNG", "png"), 1);
        let _ = fs::rename(folder.0.join(name.replace("PNG", "png")), folder.0.join(name));
    }
    folder.file("notes.txt", |path| fs::write(path, "no image").unwrap());
    assert_eq!(folder.names("").unwrap(), ["a-b/1.PNG", "a/10.png", "a/2.png", "b/1.png", "c.png"]);
    assert_eq!(folder.names("*/*.png").unwrap(), ["a/10.png", "a/2.png", "b/1.png"]);
    assert_eq!(folder.names("a/**/1.png").unwrap(), ["a/deep/1.png"]);
    assert_eq!(folder.names("c.png").unwrap(), ["c.png"]);
}

#[test]
fn listing_says_what_is_not_there() {
    let folder = Folder::new("nothing");
    assert!(matches!(folder.names(""), Err(Error::Value(text)) if text.contains("holds no images")));
    assert!(matches!(folder.names("nowhere"), Err(Error::NotFound(_))));
    assert!(matches!(folder.names("*.png"), Err(Error::NotFound(_))));
    assert!(matches!(folder.names("a**b"), Err(Error::Value(_))));
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_are_not_followed() {
    let folder = Folder::new("links");
    folder.png("a.png", 1);
    std::os::unix::fs::symlink(&folder.0, folder.0.join("loop")).unwrap();
    std::os::unix::fs::symlink(folder.0.join("self.png"), folder.0.join("self.png")).unwrap();
    assert_eq!(folder.names("").unwrap(), ["a.png", "self.png"]);
    let files = folder::list(&folder.0).unwrap();
    let error = read(&files, &options(), None).unwrap_err();
    assert!(error.to_string().contains("self.png"), "{error}");
}

#[test]
fn bad_files_are_named_or_skipped() {
    let folder = Folder::new("bad");
    let text = folder.file("text.png", |path| fs::write(path, "not an image").unwrap());
    let cut = folder.png("cut.png", 9);
    let whole = fs::read(&cut).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let files = [folder.png("a.png", 5), text, cut, folder.0.join("gone.png"), folder.png("z.png", 7)];

    let error = read(&files, &options(), None).unwrap_err().to_string();
    assert!(error.contains("3 of 5") && ["text.png", "cut.png", "gone.png"].iter().all(|name| error.contains(name)));
    let set = read(&files, &LoadOptions { on_bad: OnBad::Skip, ..options() }, None).unwrap();
    assert_eq!(set.values, [[5; 4], [7; 4]].concat());
    assert_eq!(set.skipped.iter().map(|bad| bad.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(read(&files[3..4], &options(), None), Err(Error::NotFound(_))));
}

#[test]
fn a_bomb_is_refused_before_it_is_decoded() {
    let folder = Folder::new("bomb");
    let file = folder.png("a.png", 1);
    let error = read(&[file], &LoadOptions { max_pixels: 63, ..options() }, None).unwrap_err();
    assert!(error.to_string().contains("limit of 63"), "{error}");
}

#[test]
fn a_cache_is_used_until_something_changes() {
    let folder = Folder::new("cache");
    let cache = folder.0.join("set.cache");
    let mut files = vec![folder.png("a.png", 10), folder.png("b.png", 20)];
    let first = read(&files, &options(), Some(&cache)).unwrap();
    let again = read(&files, &options(), Some(&cache)).unwrap();
    assert!(!first.from_cache && again.from_cache && again.values == first.values);

    fs::write(&files[0], fs::read(&files[1]).unwrap()).unwrap();
    let changed = read(&files, &options(), Some(&cache)).unwrap();
    assert!(!changed.from_cache && changed.values[0] == 20);
    let other_size = read(&files, &LoadOptions { size: Size::square(4), ..options() }, Some(&cache)).unwrap();
    assert!(!other_size.from_cache);
    files.push(folder.png("c.png", 30));
    assert!(!read(&files, &options(), Some(&cache)).unwrap().from_cache);
    assert!(matches!(read(&files, &options(), Some(&files[0])), Err(Error::Value(_))), "an image is no cache");
}

#[test]
fn a_damaged_cache_is_noticed_wherever_the_damage_is() {
    let folder = Folder::new("damage");
    let cache = folder.0.join("set.cache");
    let files = [folder.png("a.png", 10)];
    let good = read(&files, &options(), Some(&cache)).unwrap().values;
    let bytes = fs::read(&cache).unwrap();
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        fs::write(&cache, &damaged).unwrap();
        let set = read(&files, &options(), Some(&cache)).unwrap();
        assert!(!set.from_cache && set.values == good, "byte {place}");
    }
    for length in 0..bytes.len() {
        fs::write(&cache, &bytes[..length]).unwrap();
        assert!(!read(&files, &options(), Some(&cache)).unwrap().from_cache, "length {length}");
    }
    assert!(read(&files, &options(), Some(&cache)).unwrap().from_cache);
    let left: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file is left: {left:?}");
}

#[test]
fn a_cache_remembers_what_was_skipped_and_keeps_sixteen_bits() {
    let folder = Folder::new("skipped");
    let cache = folder.0.join("set.cache");
    let text = folder.file("text.png", |path| fs::write(path, "no").unwrap());
    let deep = folder.file("deep.png", |path| {
        let image = image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(2, 2, image::Luma([12345]));
        image.save(path).unwrap();
    });
    let files = [text, deep];
    let options = LoadOptions { on_bad: OnBad::Skip, ..options() };
    let run = || load::<f32>(files.to_vec(), &options, Some(&cache), &mut |_| Ok(())).unwrap();
    let (first, again) = (run(), run());
    assert!(again.from_cache && again.skipped == first.skipped && again.values == first.values);
    assert_eq!(again.values[0].to_u16(), 12345);
    let strict = LoadOptions { on_bad: OnBad::Raise, ..options };
    assert!(load::<f32>(files.to_vec(), &strict, Some(&cache), &mut |_| Ok(())).is_err());
}

#[test]
fn a_cache_of_another_version_is_decoded_anew() {
    let folder = Folder::new("version");
    let cache = folder.0.join("set.cache");
    let files = [folder.png("a.png", 10)];
    read(&files, &options(), Some(&cache)).unwrap();
    let version = format!("{} {} ", env!("CARGO_PKG_VERSION"), decode::VERSION).into_bytes();
    let mut bytes = fs::read(&cache).unwrap();
    let place = bytes.windows(version.len()).position(|window| window == version).expect("a version in the key");
    // The last digit is the decoders'.
    bytes[place + version.len() - 2] ^= 1;
    let body = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum.to_le_bytes());
    fs::write(&cache, &bytes).unwrap();
    assert!(!read(&files, &options(), Some(&cache)).unwrap().from_cache);
    assert!(read(&files, &options(), Some(&cache)).unwrap().from_cache);
}

/// If these pixels change, [`decode::VERSION`] is to be raised: otherwise caches would serve the old ones.
#[test]
fn known_files_have_known_pixels() {
    let folder = Folder::new("pixels");
    let colour = image::RgbImage::from_fn(50, 40, |x, y| image::Rgb([(x * 5) as u8, (y * 6) as u8, (x * y / 8) as u8]));
    let deep = image::ImageBuffer::from_fn(33, 47, |x, y| image::Luma([(x * 1900 + y * y * 2) as u16]));
    let files = [
        folder.file("a.png", |path| colour.save(path).unwrap()),
        folder.file("b.png", |path| deep.save(path).unwrap()),
        folder.file("c.tif", |path| colour.save(path).unwrap()),
        folder.file("d.jpg", |path| fs::write(path, jpeg(&colour)).unwrap()),
    ];
    let mut sum = crc32fast::Hasher::new();
    for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
        for (channels, window) in [(1, None), (3, Some(Window { level: 30000.0, width: 40000.0 }))] {
            let size = Size { height: 12, width: 17 };
            let asked = LoadOptions { size, fit, channels, window, ..options() };
            sum.update(&read(&files, &asked, None).unwrap().values);
        }
    }
    assert_eq!((decode::VERSION, sum.finalize()), (2, 1_337_118_182));
}

fn jpeg(picture: &image::RgbImage) -> Vec<u8> {
    let mut file = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    file.set_size(picture.width() as usize, picture.height() as usize);
    let mut file = file.start_compress(Vec::new()).unwrap();
    file.write_scanlines(picture.as_raw()).unwrap();
    file.finish().unwrap()
}

#[test]
fn the_caller_can_stop_the_run() {
    let stop = &mut |_| Err(Error::Interrupted);
    assert!(matches!(phantoms::<u8>(64, 256, 0, 2, stop), Err(Error::Interrupted)));
}

#[test]
fn phantoms_depend_on_seed_and_place_alone() {
    let draw = |n, seed, threads| phantoms::<u8>(n, 32, seed, threads, &mut |_| Ok(())).unwrap();
    let twenty = draw(20, 1, 2);
    assert_eq!(draw(20, 1, 1), twenty);
    assert_eq!(draw(7, 1, 3), twenty[..7 * 1024]);
    assert_ne!(draw(20, 2, 2), twenty);
    assert!(twenty.chunks(1024).all(|slice| {
        let mean = slice.iter().map(|&level| f32::from(level)).sum::<f32>() / 1024.0;
        (10.0..80.0).contains(&mean)
    }));
}

/// What these bytes were on the machine where the test was written they must be on every other.
#[test]
fn phantoms_are_the_same_on_every_machine() {
    let bytes = phantoms::<u8>(32, 48, 7, 0, &mut |_| Ok(())).unwrap();
    assert_eq!(crc32fast::hash(&bytes), 4008160680);
}

#[test]
fn options_are_checked() {
    let bad = [
        LoadOptions { size: Size::square(0), ..options() },
        LoadOptions { channels: 2, ..options() },
        LoadOptions { window: Some(Window { level: 0.0, width: f32::NAN }), ..options() },
    ];
    assert!(bad.iter().all(|options| matches!(read(&["a.png".into()], options, None), Err(Error::Value(_)))));
    assert!(matches!(read(&[], &options(), None), Err(Error::Value(_))));
    assert!(matches!(phantoms::<u8>(1, 8, 0, 0, &mut |_| Ok(())), Err(Error::Value(_))));
}
