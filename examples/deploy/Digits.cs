// Recognises a handwritten digit, through P/Invoke:
//
//   sardonyx compile runtime/data/digits.onnx -o libdigits.so
//   mcs examples/deploy/Digits.cs -out:Digits.exe && LD_LIBRARY_PATH=. mono Digits.exe
using System;
using System.Runtime.InteropServices;

[StructLayout(LayoutKind.Sequential)]
struct Tensor
{
    public IntPtr Data;
    public UIntPtr Bytes;
    public int Type, Rank;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 8)] public long[] Dims;

    public static Tensor Of(IntPtr data, ulong bytes, int type, params long[] dims)
    {
        var all = new long[8];
        dims.CopyTo(all, 0);
        return new Tensor { Data = data, Bytes = (UIntPtr)bytes, Type = type, Rank = dims.Length, Dims = all };
    }
}

sealed class Digits : IDisposable
{
    [DllImport("digits")] static extern int digits_open(IntPtr options, out IntPtr model);
    [DllImport("digits")] static extern void digits_close(IntPtr model);
    [DllImport("digits")] static extern IntPtr digits_error(IntPtr model);
    [DllImport("digits")] static extern int digits_run(IntPtr model, [In] Tensor[] inputs, int inputCount, [In, Out] Tensor[] outputs, int outputCount);

    readonly IntPtr model;

    public Digits() { Check(digits_open(IntPtr.Zero, out model), IntPtr.Zero); }
    public void Dispose() { digits_close(model); }

    /// Outputs lie in memory of the model, valid until its next run.
    public Tensor[] Run(params Tensor[] inputs)
    {
        var outputs = new[] { Tensor.Of(IntPtr.Zero, 0, 0), Tensor.Of(IntPtr.Zero, 0, 0) };
        Check(digits_run(model, inputs, inputs.Length, outputs, outputs.Length), model);
        return outputs;
    }

    static void Check(int status, IntPtr model)
    {
        if (status != 0) throw new InvalidOperationException(Marshal.PtrToStringAnsi(digits_error(model)));
    }
}

static class Program
{
    const string Picture = "  .@@.   .@@@@.  @@  @@  @@  @@  @@  @@  @@  @@  .@@@@.   .@@.  ";

    static int Main()
    {
        var image = new byte[64];
        for (int k = 0; k < 64; k++) image[k] = (byte)(Picture[k] == '@' ? 16 : Picture[k] == '.' ? 8 : 0);
        var pinned = GCHandle.Alloc(image, GCHandleType.Pinned);
        try
        {
            using (var digits = new Digits())
            {
                var outputs = digits.Run(Tensor.Of(pinned.AddrOfPinnedObject(), 64, 2, 1, 8, 8));
                var probabilities = new float[10];
                Marshal.Copy(outputs[0].Data, probabilities, 0, 10);
                long digit = Marshal.ReadInt64(outputs[1].Data);
                Console.WriteLine("{0} ({1:0}%)", digit, 100 * probabilities[digit]);
            }
            return 0;
        }
        finally { pinned.Free(); }
    }
}
