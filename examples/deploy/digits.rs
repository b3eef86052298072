// Recognises a handwritten digit:
//
//   sardonyx compile runtime/data/digits.onnx -o libdigits.so
//   rustc -O -L . -C link-arg=-Wl,-rpath,. examples/deploy/digits.rs -o digits && ./digits
use std::ffi::{c_char, c_void, CStr};
use std::ptr::{null, null_mut};

const MAX_RANK: usize = 8;
const UINT8: i32 = 2;

/// `sardonyx_tensor` of digits.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tensor {
    data: *mut c_void,
    bytes: usize,
    element_type: i32,
    rank: i32,
    dims: [i64; MAX_RANK],
}

/// `digits` of digits.h, which only the library looks into.
#[repr(C)]
struct Instance {
    _private: [u8; 0],
}

#[link(name = "digits")]
extern "C" {
    fn digits_open(options: *const c_void, out: *mut *mut Instance) -> i32;
    fn digits_close(model: *mut Instance);
    fn digits_error(model: *const Instance) -> *const c_char;
    fn digits_run(model: *mut Instance, inputs: *const Tensor, input_count: i32, outputs: *mut Tensor, output_count: i32) -> i32;
}

/// An instance that closes itself; it serves one thread at a time, which `&mut self` says to the compiler.
struct Digits(*mut Instance);

unsafe impl Send for Digits {}

impl Digits {
    fn open() -> Result<Digits, String> {
        let mut model = null_mut();
        match unsafe { digits_open(null(), &mut model) } {
            0 => Ok(Digits(model)),
            _ => Err(error(null())),
        }
    }

    /// The digit in an image of 8 x 8 pixels from 0 to 16, and how probable it is.
    fn recognise(&mut self, image: &[u8; 64]) -> Result<(i64, f32), String> {
        let none = Tensor { data: null_mut(), bytes: 0, element_type: 0, rank: 0, dims: [0; MAX_RANK] };
        let mut input = Tensor { data: image.as_ptr() as *mut c_void, bytes: image.len(), element_type: UINT8, rank: 3, ..none };
        input.dims[..3].copy_from_slice(&[1, 8, 8]);
        let mut outputs = [none; 2]; // without data: in memory of the instance, valid until its next run
        if unsafe { digits_run(self.0, &input, 1, outputs.as_mut_ptr(), 2) } != 0 {
            return Err(error(self.0));
        }
        let digit = unsafe { *(outputs[1].data as *const i64) };
        let probabilities = unsafe { std::slice::from_raw_parts(outputs[0].data as *const f32, 10) };
        Ok((digit, probabilities[digit as usize]))
    }
}

impl Drop for Digits {
    fn drop(&mut self) {
        unsafe { digits_close(self.0) }
    }
}

/// What the last failure was.
fn error(model: *const Instance) -> String {
    unsafe { CStr::from_ptr(digits_error(model)) }.to_string_lossy().into_owned()
}

const PICTURE: &[u8; 64] = b"  .@@.   .@@@@.  @@  @@  @@  @@  @@  @@  @@  @@  .@@@@.   .@@.  ";

fn main() -> Result<(), String> {
    let image = PICTURE.map(|pixel| match pixel {
        b'@' => 16,
        b'.' => 8,
        _ => 0,
    });
    let (digit, probability) = Digits::open()?.recognise(&image)?;
    println!("{digit} ({:.0}%)", 100.0 * probability);
    Ok(())
}
