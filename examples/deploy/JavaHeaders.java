/** Prints the compiler options for the headers of the JDK that runs this. */
public final class JavaHeaders {
    public static void main(String[] arguments) {
        String system = System.getProperty("os.name").toLowerCase();
        String folder = system.contains("win") ? "win32" : system.contains("mac") ? "darwin" : "linux";
        String include = System.getProperty("java.home") + "/include";
        System.out.println("-I" + include + " -I" + include + "/" + folder);
    }
}
