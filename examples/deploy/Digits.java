// Recognises a handwritten digit, through JNI (digits_jni.c):
//
//   sardonyx compile runtime/data/digits.onnx -o libdigits.a
//   javac -d . examples/deploy/Digits.java
//   cc -shared -fPIC -I. $(java examples/deploy/JavaHeaders.java) examples/deploy/digits_jni.c libdigits.a -ldl -lm -o libdigits_jni.so
//   java -Djava.library.path=. Digits
public final class Digits implements AutoCloseable {
    static {
        System.loadLibrary("digits_jni");
    }

    private long model = open();

    private static native long open();
    private static native void close(long model);
    private static native long run(long model, byte[] images, int count, float[] probabilities);

    /** The most probable digit of an image of 64 bytes, each 0 to 16; fills in the ten probabilities. */
    public int recognise(byte[] image, float[] probabilities) {
        if (model == 0) throw new IllegalStateException("closed");
        if (image.length != 64 || probabilities.length != 10) throw new IllegalArgumentException("64 bytes and room for 10 probabilities were expected");
        return (int) run(model, image, 1, probabilities);
    }

    @Override
    public void close() {
        close(model);
        model = 0;
    }

    public static void main(String[] arguments) {
        String picture = "  .@@.   .@@@@.  @@  @@  @@  @@  @@  @@  @@  @@  .@@@@.   .@@.  ";
        byte[] image = new byte[64];
        for (int k = 0; k < 64; k++) image[k] = (byte) (picture.charAt(k) == '@' ? 16 : picture.charAt(k) == '.' ? 8 : 0);
        float[] probabilities = new float[10];
        try (Digits digits = new Digits()) {
            int digit = digits.recognise(image, probabilities);
            System.out.printf("%d (%.0f%%)%n", digit, 100 * probabilities[digit]);
        }
    }
}
