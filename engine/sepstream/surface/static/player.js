// Two voices of one file, the mixture and the selection, in step: what is heard is fetched a little ahead of the playhead.
//
// Positions are samples of the file at the model's rate, which is the audio context's rate, too, so that pieces join.

const FIRST_S = 0.25, NEXT_S = 1.0;  // of sound in one piece: the first is short, because somebody waits for it
const AHEAD_S = 1.6;
const START_S = 0.03;  // between asking for a new selection and where it begins, so that it can be there in time
const FADE_S = 0.012;
const LOOK_MS = 60;

export class Player {
  // ``fetch(voice, start, count)`` promises a Float32Array, channel after channel; ``failed`` is told of what it throws.
  constructor({rate, fetch, failed, moved}) {
    Object.assign(this, {rate, fetch, failed, moved});
    this.channels = 1;
    this.length = 0;
    this.at = 0;  // where it stands while it does not play
    this.loop = null;  // [start, stop)
    this.shown = "selection";
    this.levels = {mixture: 1, selection: 1};
    this.volume = 1;
    this.playing = false;
    this.voices = {};
    this.coming = null;  // the voice of a selection that is not there yet
    this.again = false;  // it has changed once more meanwhile
    this.answered_ms = 0;  // from the last change of the selection to the scheduling of its sound
  }

  load(length, channels) {
    const other = channels !== this.channels;
    [this.length, this.channels] = [length, channels];
    if (other) this.stop();
  }

  get position() {
    if (!this.playing) return this.at;
    const p = this.from + (this.context.currentTime - this.since) * this.rate;
    return Math.min(Math.max(this.folded(p), 0), this.length);
  }

  // Where the sound is that comes after ``p`` samples of playing on.
  folded(p) {
    if (!this.loop || p < this.loop[1] || this.from >= this.loop[1]) return p;
    const [a, b] = this.loop;
    return a + ((p - a) % (b - a));
  }

  async play() {
    if (this.playing || !this.length) return;
    this.context ??= this.open();
    await this.context.resume();
    if (this.at >= this.length - 1) this.at = this.loop?.[0] ?? 0;
    this.begin(this.at);
  }

  open() {
    const context = new AudioContext({sampleRate: this.rate, latencyHint: "interactive"});
    this.master = new GainNode(context, {gain: this.volume});
    this.master.connect(context.destination);
    return context;
  }

  begin(position) {
    this.silence();
    this.playing = true;
    this.from = position = Math.round(position);
    this.since = this.context.currentTime + START_S;
    for (const name of ["mixture", "selection"]) this.voices[name] = this.voice(name, position);
    this.level(0);
    this.timer ??= setInterval(() => this.look(), LOOK_MS);
    this.look();
  }

  voice(name, next) {
    const gain = new GainNode(this.context, {gain: 0});
    gain.connect(this.master);
    return {name, gain, next, pieces: new Set(), busy: false, gone: false, first: true};
  }

  get all() {
    return [...Object.values(this.voices), ...(this.coming ? [this.coming] : [])];
  }

  // Everything that plays or waits falls silent.
  silence() {
    for (const voice of this.all) this.fade(voice);
    [this.voices, this.coming, this.again] = [{}, null, false];
  }

  fade(voice) {
    voice.gone = true;
    const now = this.context.currentTime;
    voice.gain.gain.cancelScheduledValues(now);
    voice.gain.gain.setTargetAtTime(0, now, FADE_S / 3);
    setTimeout(() => {
      for (const piece of voice.pieces) piece.stop();
      voice.gain.disconnect();
    }, 8000 * FADE_S);
  }

  pause() {
    if (!this.playing) return;
    this.at = this.position;
    this.stop();
  }

  stop() {
    if (this.context) this.silence();
    clearInterval(this.timer);
    this.timer = null;
    this.playing = false;
    this.moved();
  }

  seek(position) {
    this.at = Math.min(Math.max(position, 0), this.length);
    if (this.playing) this.begin(this.at);
    this.moved();
  }

  setLoop(range) {
    const at = this.position;
    this.loop = range;
    if (range && (at < range[0] || at >= range[1])) return this.seek(range[0]);
    if (this.playing) this.begin(at);
  }

  // Another selection: its voice begins anew, while the old one plays until it is there; of many wishes meanwhile, the last.
  renew() {
    if (!this.playing) return;
    this.again = Boolean(this.coming);
    if (this.again) return;
    const asked = performance.now(), begins = this.context.currentTime + START_S;
    const fresh = (this.coming = this.voice("selection", Math.ceil(this.from + (begins - this.since) * this.rate)));
    fresh.arrived = () => {
      this.answered_ms = performance.now() - asked;
      this.fade(this.voices.selection);
      this.voices.selection = fresh;
      this.coming = null;
      this.level();
      if (this.again) this.renew();
    };
    this.look();
  }

  // Which of the two is heard, and how loud.
  show(name, levels = this.levels) {
    [this.shown, this.levels] = [name, levels];
    if (this.playing) this.level();
  }

  setVolume(gain) {
    this.volume = gain;
    this.master?.gain.setTargetAtTime(gain, this.context.currentTime, FADE_S);
  }

  level(time = FADE_S / 3) {
    for (const [name, voice] of Object.entries(this.voices)) {
      const wanted = name === this.shown ? this.levels[name] : 0;
      if (time) voice.gain.gain.setTargetAtTime(wanted, this.context.currentTime, time);
      else voice.gain.gain.value = wanted;
    }
  }

  look() {
    const last = this.from + (this.context.currentTime - this.since) * this.rate;
    if (!this.loop && last >= this.length) {
      this.at = this.length;
      return this.stop();
    }
    for (const voice of this.all) this.feed(voice, last);
    this.moved();
  }

  async feed(voice, now) {
    if (voice.busy || voice.gone || voice.next > now + AHEAD_S * this.rate) return;
    if (voice.next < now) voice.next = Math.ceil(now + START_S * this.rate);  // too late for that: on from here
    const start = Math.floor(this.folded(voice.next)), end = this.loop && start < this.loop[1] ? this.loop[1] : this.length;
    const count = Math.min(Math.round((voice.first ? FIRST_S : NEXT_S) * this.rate), Math.floor(end) - start);
    if (count <= 0) return;
    voice.busy = true;
    try {
      const samples = await this.fetch(voice.name, start, count);
      if (!voice.gone) this.schedule(voice, samples, count);
    } catch (error) {
      if (!voice.gone) this.failed(error);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    voice.busy = false;
    if (!voice.gone && this.playing) this.feed(voice, this.from + (this.context.currentTime - this.since) * this.rate);
  }

  schedule(voice, samples, count) {
    const buffer = new AudioBuffer({length: count, numberOfChannels: Math.min(this.channels, 32), sampleRate: this.rate});
    for (let c = 0; c < buffer.numberOfChannels; c++) buffer.copyToChannel(samples.subarray(c * count, (c + 1) * count), c);
    const piece = new AudioBufferSourceNode(this.context, {buffer}), at = this.since + (voice.next - this.from) / this.rate;
    const late = Math.max(this.context.currentTime + 0.003 - at, 0);  // then the beginning of it is left out
    if (late < buffer.duration) {
      piece.connect(voice.gain);
      piece.start(at + late, late);
      voice.pieces.add(piece);
      piece.onended = () => voice.pieces.delete(piece);
    }
    voice.next += count;
    if (voice.first) voice.arrived?.();
    voice.first = false;
  }
}
