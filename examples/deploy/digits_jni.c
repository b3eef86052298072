/* The native methods of Digits.java. */
#include "digits.h"

#include <jni.h>

static void fail(JNIEnv *env, const char *text) {
    jclass kind = (*env)->FindClass(env, "java/lang/IllegalStateException");
    if (kind) (*env)->ThrowNew(env, kind, text);
}

JNIEXPORT jlong JNICALL Java_Digits_open(JNIEnv *env, jclass self) {
    digits *model = NULL;
    (void)self;
    if (digits_open(NULL, &model)) fail(env, digits_error(NULL));
    return (jlong)(intptr_t)model;
}

JNIEXPORT void JNICALL Java_Digits_close(JNIEnv *env, jclass self, jlong model) {
    (void)env, (void)self;
    digits_close((digits *)(intptr_t)model);
}

JNIEXPORT jlong JNICALL Java_Digits_run(JNIEnv *env, jclass self, jlong handle, jbyteArray images, jint count, jfloatArray probabilities) {
    digits *model = (digits *)(intptr_t)handle;
    jbyte *pixels = (*env)->GetByteArrayElements(env, images, NULL);
    int64_t digit = 0;
    (void)self;
    if (!pixels) return 0; /* an exception is pending */
    sardonyx_tensor input = {pixels, (size_t)count * 64, SARDONYX_UINT8, 3, {count, 8, 8}}, outputs[2] = {{0}};
    if (digits_run(model, &input, 1, outputs, 2)) fail(env, digits_error(model));
    else {
        (*env)->SetFloatArrayRegion(env, probabilities, 0, 10 * count, outputs[0].data);
        digit = *(const int64_t *)outputs[1].data;
    }
    (*env)->ReleaseByteArrayElements(env, images, pixels, JNI_ABORT);
    return digit;
}
