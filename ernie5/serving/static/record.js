// The microphone as a WAV file.

let recorder = null;

export const canRecord = Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

// Starts, or ends and gives a File; null when it has just started.
export async function toggleRecording() {
  if (recorder) {
    const ended = new Promise((resolve) => { recorder.onstop = resolve; });
    recorder.stop();
    await ended;
    const { pieces, stream } = recorder;
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    return wav(await new Blob(pieces).arrayBuffer());
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  recorder = new MediaRecorder(stream);
  recorder.pieces = [];
  recorder.ondataavailable = (event) => recorder.pieces.push(event.data);
  recorder.start();
  return null;
}

async function wav(encoded) {
  const context = new AudioContext();
  const sound = await context.decodeAudioData(encoded);
  await context.close();
  const samples = sound.getChannelData(0);
  const file = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => file.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  file.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  file.setUint32(16, 16, true);
  file.setUint16(20, 1, true);
  file.setUint16(22, 1, true);
  file.setUint32(24, sound.sampleRate, true);
  file.setUint32(28, 2 * sound.sampleRate, true);
  file.setUint16(32, 2, true);
  file.setUint16(34, 16, true);
  text(36, "data");
  file.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => file.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new File([file], "recording.wav", { type: "audio/wav" });
}
